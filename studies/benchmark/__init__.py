"""Cost and accuracy of our methods beside the others', on the paper's convolutional encoder."""

import copy
import gc
import math
from pathlib import Path

import torch
from torch import Tensor

import pullback as pb
from models import datasets, training
from models.vae import VAE, ConvVAE
from pullback.arguments import require_choice
from pullback.products.precision import full_precision

from . import report, scaling
from .comparison import EXACT, K, compare, dense, encoder_of, methods, truth
from .scaling import BATCH
from .stopping import stopping
from .targets import targets
from .throughput import throughput
from .timing import machine

DEVICES = ("cpu", "cuda")
BATCHES, EPOCHS = 8, 15
QUICK_BATCHES, QUICK_EPOCHS = 2, 2


def benchmark(
    device: str = "cpu",
    out: str = "studies/benchmark",
    checkpoint: str | None = None,
    quick: bool = False,
    seed: int = 0,
) -> None:
    """Measure our methods and others on an encoder trained on photographs; write table and plots.

    Args:
        device: cpu, or cuda.
        out: folder for table.md, accuracy.png and scaling.png.
        checkpoint: take the VAE of this file, from ``train --dataset photos``, and do not train.
        quick: train less, measure two batches, leave out slow methods and other images' sizes.
        seed: of training and of the choice of images.
    """
    require_choice("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but PyTorch finds no such device here; take 'cpu'")
    where = torch.device(device)
    with full_precision():  # plain forwards too
        _benchmark(where, Path(out), checkpoint, quick, seed)


def _benchmark(
    where: torch.device, folder: Path, checkpoint: str | None, quick: bool, seed: int
) -> None:
    split = datasets.load("photos")
    vae, origin = _vae(split.train, checkpoint, QUICK_EPOCHS if quick else EPOCHS, seed)
    with torch.no_grad():
        error = (vae.decode(vae.encode(split.test)[0]) - split.test).square().mean().item()
    vae = vae.to(where).requires_grad_(False)
    order = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(seed))
    test = split.test[order].to(where)
    batches = list(test.split(BATCH)[: QUICK_BATCHES if quick else BATCHES])

    _import_all(where)
    double = copy.deepcopy(vae).double()
    exact = [truth(double, x) for x in batches[:EXACT]]
    rows = compare(methods(vae, quick), vae, batches, exact)
    if not quick:
        rows.append(dense(vae, batches[0]))
    parts = scaling.cost_of_parts(vae, batches, K)
    rules = stopping(vae, batches, exact)
    needed = scaling.memory(vae, batches[0], K, quick)
    points = scaling.cost_points(vae, split.train, test, seed, quick)

    ranks = torch.cat([found.entropy for found in exact if found.entropy is not None]).exp()
    facts = {
        "machine": machine(where),
        "encoder": f"{origin}; {math.prod(vae.event_shape)} pixels to "
        f"2 × {vae.config['latent']} outputs; mean squared error of held-out reconstructions "
        f"{error:.4f}; effective rank of G {ranks.mean():.1f} on average, "
        f"{ranks.min():.1f} to {ranks.max():.1f}",
        "images": f"{len(batches)} batches of {BATCH} held-out crops, float32, k = {K}",
        "one forward": f"{1e3 * parts.forward:.1f} ms (1 FE: the median of plain forwards of a "
        "batch, without gradients, run in between)",
    }
    if where.type == "cuda":
        facts |= throughput(vae, test)
    text = report.table(facts, rows, targets(rows, parts, needed), parts, rules, needed, points)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text)
    report.draw_accuracy(rows, folder / "accuracy.png")
    report.draw_scaling(points, folder / "scaling.png")
    print(text)


def _import_all(device: torch.device) -> None:
    """PyTorch imports some of itself when it is first used; that is nobody's set-up.

    Nor is Python's search for garbage among all that was imported.
    """
    vae = ConvVAE((3, 8, 8), filters=(4,), units=(4, 4), latent=4).eval().to(device)
    pb.score(encoder_of(vae), torch.rand(2, 3, 8, 8, device=device), k=1, method="golub-kahan")
    gc.collect()


def _vae(images: Tensor, checkpoint: str | None, epochs: int, seed: int) -> tuple[VAE, str]:
    if checkpoint is not None:
        vae = training.load(Path(checkpoint))
        if vae.event_shape != images.shape[1:]:
            raise ValueError(
                f"{checkpoint} is for images of shape {vae.event_shape}; "
                f"the photographs have {tuple(images.shape[1:])}"
            )
        return vae, f"{type(vae).__name__} of a checkpoint"
    vae = training.train(images, ConvVAE, epochs=epochs, seed=seed)
    return vae, f"ConvVAE trained for {epochs} epochs on {len(images)} crops of photographs"

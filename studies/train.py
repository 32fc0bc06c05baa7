"""Train the paper's VAE for a data set, and keep its checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import datasets, training
from models.celeba import CelebA
from models.training import Images
from models.vae import MLPVAE, VAE, ConvVAE
from pullback.arguments import require_choice

_BATCH = 256
# The digits are so small that a smaller VAE does.
DIGITS: dict[str, Any] = {"hidden": (128, 128, 64, 32), "latent": 8}


def train(
    out: str,
    dataset: str = "mnist",
    data: str | None = None,
    beta: float = 1.0,
    epochs: int = 10,
    batch_size: int = 128,
    likelihood: str = "gaussian",
    learned_variance: bool = False,
    objective: str = "elbo",
    mixup: float = 0.0,
    mixup_form: str = "text",
    schedule: str = "constant",
    seed: int = 0,
    device: str = "cpu",
    download: bool = False,
    skip_bad: bool = False,
) -> None:
    """Train the paper's VAE, convolutional for colour, and write its checkpoint as safetensors.

    For digits it is a smaller one, which the studies of the paper take, too.

    An interrupted training is kept in OUT.partial; the same command goes on from there.

    Args:
        out: file for the checkpoint, ending in .safetensors.
        dataset: digits, photos, mnist, fashion-mnist or celeba.
        data: folder with the IDX files of mnist or fashion-mnist, or with img_align_celeba and
            list_eval_partition.txt of celeba; the variable PULLBACK_DATA if absent.
        beta: weight of the Kullback-Leibler divergence, or of the total correlation for tcvae.
        epochs: passes over the training images.
        batch_size: images per step.
        likelihood: gaussian (sum of squared errors) or bernoulli.
        learned_variance: the decoder learns a variance for each pixel, and the likelihood is the
            Gaussian density with it.
        objective: elbo or tcvae.
        mixup: weight of the latent mixup penalty; 0 leaves it out.
        mixup_form: text, as the paper's text has the penalty, or code, as the authors' code has it.
        schedule: of the learning rate, constant or cosine.
        seed: of weights, order and noise.
        device: cpu, or cuda.
        download: fetch mnist or fashion-mnist from openml.org if there is no folder.
        skip_bad: leave out images of celeba that are absent or cannot be read.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ValueError(f"the checkpoint's name must end in .safetensors, got {out!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for the checkpoint")
    images, held_out = open_images(dataset, data, download, skip_bad)
    vae = training.train(
        images,
        architecture(images),
        **widths(dataset),
        beta=beta,
        epochs=epochs,
        batch_size=batch_size,
        likelihood=likelihood,
        learned_variance=learned_variance,
        objective=objective,
        mixup=mixup,
        mixup_form=mixup_form,
        schedule=schedule,
        seed=seed,
        device=device,
        checkpoint=path,
        facts={"dataset": dataset},
    )
    error, variance = evaluate(vae, held_out, torch.device(device))
    for part in (images, held_out):
        if isinstance(part, CelebA) and part.skipped:
            print(f"skipped {len(part.skipped)} bad images, {min(part.skipped)} among them")
    print(
        f"{path}: mean squared error of the held-out reconstructions {error:.4f}, where the "
        f"pixels' variance is {variance:.4f}"
    )


def open_images(
    dataset: str, data: str | None, download: bool = False, skip_bad: bool = False
) -> tuple[Images, Images]:
    """Images to train with, and others; the arguments are those of :func:`train`."""
    require_choice("dataset", dataset, (*datasets.NAMES, "celeba"))
    if dataset == "celeba":
        return CelebA(data, "train", skip_bad), CelebA(data, "test", skip_bad)
    split = datasets.load(dataset, data, download)
    return split.train, split.test


def architecture(images: Images) -> type[VAE]:
    """The paper's for such images: convolutional for colour."""
    return ConvVAE if images.shape[1] == 3 else MLPVAE


def widths(dataset: str) -> dict[str, Any]:
    """Arguments of the architecture for a data set, where they are not the paper's."""
    return DIGITS if dataset == "digits" else {}


@torch.no_grad()
def evaluate(vae: VAE, images: Images, device: torch.device) -> tuple[float, float]:
    """Mean squared error of the reconstructions, and mean variance of a pixel; batch by batch."""
    count, error = 0, 0.0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for index in torch.arange(len(images)).split(_BATCH):
        x = images[index].to(device)
        y = vae.decode(vae.encode(x)[0])
        error += (y - x).square().double().sum().item()
        count, total = count + len(x), total + x.double().sum(0)
        squares = squares + x.double().square().sum(0)
    if count < 2:
        raise ValueError(f"at least 2 held-out images are needed, {count} could be read")
    mean = torch.as_tensor(total) / count
    variance = (torch.as_tensor(squares) - count * mean.square()) / (count - 1)
    return error / (count * mean.numel()), variance.mean().item()

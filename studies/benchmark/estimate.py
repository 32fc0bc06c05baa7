"""What CelebA's test set should take on a GPU, from what a score asks of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import pullback as pb
from models.vae import VAE, ConvVAE

from .comparison import K, encoder_of
from .counting import Counts, count
from .report import grid

# CelebA's test set, with the paper's convolutional encoder.
IMAGES, EVENT, LATENT = 19_962, (3, 64, 64), 128
BATCHES = (64, 128, 256, 512)
# Singular values of the last layers: a spectrum that decays as that of a trained encoder does.
DECAY, SCALE = 0.55, 3.0


@dataclass(frozen=True)
class Device:
    """What a GPU can do; seconds are those of PyTorch's host side.

    Attributes:
        name: what it is.
        operations: float32 operations a second, outside of tensor cores.
        bandwidth: bytes a second.
        launch: seconds until a kernel of PyTorch is launched.
        replay: seconds until a graph is launched.
        replayed: seconds at least for each kernel of a graph.
        wait: seconds lost when the host waits for the device.
        share: of operations and bandwidth that is reached.
    """

    name: str
    operations: float
    bandwidth: float
    launch: float = 6e-6
    replay: float = 10e-6
    replayed: float = 2e-6
    wait: float = 20e-6
    share: float = 0.6


H100 = Device("NVIDIA H100 SXM", 67e12, 3.35e12)


@dataclass(frozen=True)
class Estimate:
    """Seconds for all images, by what they go to.

    Attributes:
        host: launching kernels and graphs, and waiting.
        arithmetic: operations, of matrix products and convolutions.
        memory: reading and writing.
    """

    host: float
    arithmetic: float
    memory: float

    @property
    def least(self) -> float:
        """If the host is always ahead of the device, and arithmetic hides behind memory."""
        return max(self.host, self.arithmetic, self.memory)

    @property
    def most(self) -> float:
        """If nothing overlaps."""
        return self.host + self.arithmetic + self.memory


def estimate(counts: Counts, batch: int, device: Device, images: int = IMAGES) -> Estimate:
    """From what one batch asks of a device."""
    batches = images / batch
    host = (
        counts.launched * device.launch
        + counts.replays * device.replay
        + counts.replayed * device.replayed
        + (counts.waits + counts.uploads) * device.wait
    )
    return Estimate(
        host=batches * host,
        arithmetic=batches * counts.operations / (device.share * device.operations),
        memory=batches * counts.bytes / (device.share * device.bandwidth),
    )


def cuda_estimate(out: str = "studies/benchmark/cuda.md") -> None:
    """Count what a score asks of a device, and say what CelebA's test set should take on an H100.

    Needs a CUDA device, or an emulated one under PyTorch's PrivateUse1, which is as good for this.

    Args:
        out: the page that is written.
    """
    device = _countable_device()
    rows = []
    for size in BATCHES:
        encoder = encoder_of(spectral_vae().to(device))  # a new map, whose recordings are counted
        x = torch.rand(size, *EVENT, generator=torch.Generator().manual_seed(0)).to(device)
        counts = count(partial(pb.score, encoder, x, K), device)
        rows.append((size, counts, estimate(counts, size, H100)))
    text = _page(rows, H100)
    Path(out).write_text(text)
    print(text)


def _countable_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    name = torch._C._get_privateuse1_backend_name()
    if name == "privateuseone":
        raise ValueError(
            "cuda-estimate counts on a CUDA device, or on an emulated one that is registered under "
            "PyTorch's PrivateUse1; there is none here"
        )
    return torch.device(name, 0)


def spectral_vae() -> VAE:
    """The paper's convolutional VAE, untrained, with the spectrum of a trained one."""
    torch.manual_seed(0)
    vae = ConvVAE(EVENT, latent=LATENT).eval().requires_grad_(False)
    for layer in (vae.mean, vae.logvar):
        U, S, Vt = torch.linalg.svd(layer.weight, full_matrices=False)
        decaying = SCALE * DECAY ** torch.arange(len(S), dtype=S.dtype)
        layer.weight.data = U * decaying @ Vt
    return vae


def _page(rows: Sequence[tuple[int, Counts, Estimate]], device: Device) -> str:
    """The page, as Markdown."""
    head = ["batch", "kernels", "replays", "kernels in them", "waits", "uploads", "TFLOP", "GB"]
    head += ["host [s]", "arithmetic [s]", "memory [s]", "in all [s]"]
    lines = [
        [
            *map(str, (size, c.launched, c.replays, c.replayed, c.waits, c.uploads)),
            *(f"{c.operations / 1e12:.2f}", f"{c.bytes / 1e9:.1f}"),
            *(f"{e.host:.1f}", f"{e.arithmetic:.1f}", f"{e.memory:.1f}"),
            f"{e.least:.1f} to {e.most:.1f}",
        ]
        for size, c, e in rows
    ]
    least = min(rows, key=lambda row: row[2].most)[2]
    about = (
        "Written by `python -m studies cuda-estimate`. **No GPU was at hand.** Counted is what one "
        f"`pullback.score` of a batch asks of the device (k = {K}, the paper's convolutional "
        f"encoder, 2 × {LATENT} outputs, spectra that decay as trained ones do), after three "
        f"others, on an emulated device with CUDA's rules. Seconds are for {IMAGES} images of "
        f"{EVENT[0]}×{EVENT[1]}×{EVENT[2]} pixels."
    )
    assumed = (
        f"Assumed, not measured, for an {device.name}: {device.operations / 1e12:g} TFLOP/s in "
        f"float32 and {device.bandwidth / 1e12:g} TB/s, of which {device.share:.0%} are reached; "
        f"{1e6 * device.launch:g} µs to launch a kernel from PyTorch, {1e6 * device.replay:g} µs "
        f"a graph and {1e6 * device.replayed:g} µs for each kernel in it, {1e6 * device.wait:g} µs "
        "lost in each wait and in each upload that is waited for. The last column is between what "
        "takes longest, if all else hides behind it, and the sum. Reading images, decoding JPEGs "
        "and writing the archive are left out. Convolutions of few channels reach less than a "
        "large matrix product."
    )
    best = f"**{least.least:.0f} to {least.most:.0f} s** at the best of these batches."
    title, table = "# CelebA's test set on a GPU, estimated", grid(head, lines)
    return "\n\n".join((title, about, table, assumed, best)) + "\n"

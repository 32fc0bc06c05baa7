"""What is measured of one VAE: spectra, scores, and what steps along eigenvectors do to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb
from models.vae import VAE
from pullback.arguments import require_integer
from pullback.attacks.spheres import norms, samplewise

from ..named_arrays import Variable
from .vaes import decoder_of, encoder_of

RANKS = 5
_BATCH, _SMALL_BATCH = 256, 32
# Paper, Sec. 4: 40 step sizes δ; these five are where the authors published their errors.
DELTAS = np.geomspace(0.1, 10, 40)
PUBLISHED = DELTAS[[0, 14, 17, 30, 39]]
NORMS = np.geomspace(0.1, 10, 9)


class Step(NamedTuple):
    """A step δ·λᵖ·η along a unit eigenvector η, and whether the image is clipped to [0, 1] then.

    p = 1 is the paper's step as printed, p = ½ the one with singular values for λ, and p = 0 has
    the norm δ for every encoder.
    """

    delta: float
    power: float
    clipped: bool = True


STEPS = (
    *(Step(delta, 1) for delta in DELTAS),
    *(Step(delta, 0) for delta in NORMS),
    *(Step(delta, 0.5) for delta in PUBLISHED),
    *(Step(delta, power, clipped=False) for power in (1, 0.5) for delta in PUBLISHED),
)
QUICK_STEPS = (*(Step(d, 1) for d in PUBLISHED), *(Step(d, 0) for d in NORMS[::2]))
QUICK_IMAGES = 100


@dataclass(frozen=True)
class Effort:
    """How much is measured of a VAE.

    Attributes:
        images: how many held-out images, the first ones; all, if there are fewer.
        steps: those that are tried.
        marked: steps whose error is kept for every image.
    """

    images: int
    steps: Sequence[Step]
    marked: Sequence[Step] = (
        *(Step(delta, 1) for delta in PUBLISHED[[1, 3]]),
        *(Step(delta, 0) for delta in NORMS[[4, 6]]),
    )

    def __post_init__(self) -> None:
        require_integer("images", self.images, 2)

    @property
    def configuration(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {
            "images": self.images,
            "steps": [list(map(float, step)) for step in self.steps],
            "marked": [list(map(float, step)) for step in self.marked],
        }


def effort(images: int, *, quick: bool) -> Effort:
    """The paper's steps, or in a hurry fewer of them, and at most 100 images."""
    return Effort(min(images, QUICK_IMAGES), QUICK_STEPS) if quick else Effort(images, STEPS)


COORDINATES = {
    "sample": Variable(("sample",), "index of the image in the held-out part of its data set"),
    "rank": Variable(("rank",), "rank of the eigenvalue, the largest being 1"),
    "step": Variable(("step",), "index of the step"),
    "delta": Variable(("step",), "step size δ; the step is δ λ^power along the eigenvector"),
    "power": Variable(("step",), "power of λ in the length of the step"),
    "clipped": Variable(("step",), "whether the perturbed image is clipped to [0, 1]"),
    "marked": Variable(("marked",), "index of the steps that attack_error is kept for"),
}
_SAMPLE, _CURVE = ("sample",), ("rank", "step")
MEASURED = {
    "eigenvalues": Variable(("sample", "rank"), "largest eigenvalues of the metric"),
    "relative_residual": Variable(
        _SAMPLE, "largest of the norms of G v - lambda v, over the largest eigenvalue"
    ),
    "trace": Variable(_SAMPLE, "sum of all eigenvalues"),
    "entropy": Variable(_SAMPLE, "entropy in nats, eigenvalues divided by their sum"),
    "entropy_none": Variable(_SAMPLE, "entropy -sum(l log l) in nats, eigenvalues as they are"),
    "entropy_max": Variable(_SAMPLE, "entropy in nats, eigenvalues divided by the largest"),
    "mean_radius": Variable(_SAMPLE, "largest singular value of J_mu"),
    "mean_entropy": Variable(
        _SAMPLE, "entropy in nats, singular values of J_mu divided by the largest"
    ),
    "entropy_error": Variable(_SAMPLE, "standard error of entropy"),
    "pixel_variance": Variable((), "variance over images of a pixel, mean over pixels"),
    "reconstruction_error": Variable(
        _SAMPLE, "mean squared error of the reconstruction, over pixels"
    ),
    "attack_error": Variable(
        ("sample", "marked"),
        "mean squared difference of image and reconstruction after a step along eigenvector 1",
    ),
    "attack_error_mean": Variable(_CURVE, "attack error, mean over images"),
    "attack_error_std": Variable(_CURVE, "attack error, deviation over images"),
    "corrupted_error_mean": Variable(
        _CURVE, "mean squared error of the corrupted image's reconstruction, mean"
    ),
    "latent_distance_mean": Variable(_CURVE, "distance of means of codes, mean"),
    "latent_distance_std": Variable(_CURVE, "distance of means of codes, deviation"),
    "norm": Variable(_CURVE, "norm of the step before clipping, mean over images"),
    "clipped_norm": Variable(_CURVE, "norm of the step after clipping, mean over images"),
}
# Errors need three digits, no more.
_SHORT = ("relative_residual", "entropy_error")


def coordinates(samples: int, effort: Effort) -> dict[str, NDArray]:
    """The arrays of ``COORDINATES``."""
    delta, power, clipped = (np.array(column) for column in zip(*effort.steps, strict=True))
    return {
        "sample": np.arange(samples),
        "rank": 1 + np.arange(RANKS),
        "step": np.arange(len(delta)),
        "delta": delta,
        "power": power.astype(float),
        "clipped": clipped.astype(np.int8),
        "marked": np.array([effort.steps.index(step) for step in effort.marked]),
    }


@torch.no_grad()
def measure(
    vae: VAE, x: Tensor, effort: Effort, *, combined: bool = False, seed: int = 0
) -> dict[str, NDArray]:
    """The arrays of ``MEASURED`` for images ``(n, *event)`` in [0, 1].

    Args:
        vae: in eval mode.
        x: the images.
        effort: which steps are tried.
        combined: take the metric of Eq. 11, with the VAE's decoder, for that of Eq. 4.
        seed: of Krylov starts and probes.
    """
    encoder = encoder_of(vae)
    mean = pb.as_map(lambda x: vae.encode(x)[0], returns="mean")
    decoder = decoder_of(vae) if combined else None
    generator = torch.Generator().manual_seed(seed)
    parts = []
    with tqdm(total=len(x), unit="image", desc="measuring", leave=False) as progress:
        for batch in x.split(_BATCH):
            scores = pb.score(encoder, batch, k=RANKS, decoder=decoder, generator=generator)
            columns = _columns(scores) | _as_published(mean, batch)
            parts.append(columns | _attack(vae, batch, scores, effort.steps))
            progress.update(len(batch))
    every = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    summary = _summary(every, [effort.steps.index(step) for step in effort.marked])
    return summary | {"pixel_variance": x.double().var(0).mean().cpu().numpy()}


def _columns(scores: pb.Scores) -> dict[str, NDArray]:
    names = ("eigenvalues", "trace", "entropy", "entropy_none", "entropy_max", "entropy_error")
    columns = {name: getattr(scores, name) for name in names}
    worst = scores.residual_norms.amax(1)
    columns["relative_residual"] = torch.where(worst > 0, worst / scores.spectral_radius, 0.0)
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _as_published(mean: pb.Map, x: Tensor) -> dict[str, NDArray]:
    """The two scores as the authors' code has them: of singular values s of J_μ, p = s/s₁."""
    jacobians = (pb.expected_metric(mean, part).jacobian for part in x.split(_SMALL_BATCH))
    s = torch.cat([torch.linalg.svdvals(jacobian.to_dense()) for jacobian in jacobians])
    entropy = torch.special.entr(s / s[:, :1]).nan_to_num().sum(1)  # 0/0 where J_μ is zero
    return {"mean_radius": s[:, 0].cpu().numpy(), "mean_entropy": entropy.cpu().numpy()}


def _attack(vae: VAE, x: Tensor, scores: pb.Scores, steps: Sequence[Step]) -> dict[str, NDArray]:
    """What :func:`_take` gives, ``(B, rank, step)`` each; the error without a step, ``(B,)``."""
    code = vae.encode(x)[0]
    moved = [
        [_take(vae, x, code, scores.directions[:, i], scores.eigenvalues[:, i], step)
         for step in steps]
        for i in range(RANKS)
    ]  # fmt: skip
    arrays = np.array(moved).transpose(2, 3, 0, 1)
    names = ("attack_error", "corrupted_error", "latent_distance", "norm", "clipped_norm")
    return dict(zip(names, arrays, strict=True)) | {
        "reconstruction_error": _mse(vae.decode(code), x).cpu().numpy()
    }


def _take(
    vae: VAE, x: Tensor, code: Tensor, direction: Tensor, value: Tensor, step: Step
) -> NDArray:
    """What a step does, ``(5, B)``, with the sign that moves the code further.

    These are the squared errors of the reconstruction of x_c to x and to x_c, the distance of the
    codes, and the norm of the step before and after clipping.
    """
    length = step.delta * value.clamp(min=0) ** step.power
    change = samplewise(length, x) * direction
    both = torch.stack([x + change, x - change])
    if step.clipped:
        both = both.clamp(0, 1)
    codes = vae.encode(both.flatten(0, 1))[0].unflatten(0, (2, -1))
    distances = (codes - code).flatten(2).norm(dim=2)
    sign, each = distances.argmax(0), torch.arange(len(x), device=x.device)
    y, corrupted = vae.decode(codes[sign, each]), both[sign, each]
    errors = (_mse(y, x), _mse(y, corrupted))
    clipped = norms(corrupted - x)
    return torch.stack([*errors, distances[sign, each], length, clipped]).cpu().numpy()


def _mse(y: Tensor, x: Tensor) -> Tensor:
    return (y - x).square().flatten(1).mean(1)


def _summary(every: dict[str, NDArray], marked: Sequence[int]) -> dict[str, NDArray]:
    """What is kept of all images: columns as they are, curves as means and deviations."""
    kept: dict[str, Any] = {name: every[name] for name in every if name in MEASURED}
    kept["attack_error"] = every["attack_error"][:, 0, list(marked)]
    for name in ("attack_error", "latent_distance"):
        kept[f"{name}_mean"] = every[name].mean(0, dtype=np.float64)
        kept[f"{name}_std"] = every[name].std(0, dtype=np.float64)
    kept["corrupted_error_mean"] = every["corrupted_error"].mean(0, dtype=np.float64)
    for name in ("norm", "clipped_norm"):
        kept[name] = every[name].mean(0, dtype=np.float64)
    return kept | {name: every[name].astype(np.float16) for name in _SHORT}

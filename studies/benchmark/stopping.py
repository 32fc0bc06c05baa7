"""What a score waits for, and how good its own word on the entropy is."""

from dataclasses import dataclass

import torch
from torch import Tensor

import pullback as pb
from models.vae import VAE
from pullback.eigen.driver import solve
from pullback.eigen.request import Request
from pullback.sampling import SampleStreams, as_generator
from pullback.traces.spectra import is_entropy_accurate

from .comparison import K, encoder_of
from .peers import Found

ROUNDING = 1e-5  # of an entropy in float32, which is no part of its standard error


@dataclass(frozen=True)
class Stopping:
    """Golub–Kahan's steps for an image, and its entropies' errors.

    Attributes:
        steps, steps_for_pairs: of an image, on average, with the entropy asked for and without.
        waited: the share of images that went on for the entropy alone.
        within: the shares of images whose entropy is within one standard error, and within two.
        images: how many the shares are taken over.
    """

    steps: float
    steps_for_pairs: float
    waited: float
    within: tuple[float, float]
    images: int


def stopping(vae: VAE, batches: list[Tensor], exact: list[Found]) -> Stopping:
    """Measured on the batches whose exact spectra are known."""
    batches = batches[: len(exact)]
    with_entropy = torch.cat([_count_steps(vae, x, entropy=True) for x in batches])
    for_pairs = torch.cat([_count_steps(vae, x, entropy=False) for x in batches])
    errors, stated = [], []
    for x, true in zip(batches, exact, strict=True):
        scores = pb.score(encoder_of(vae), x, K)
        assert true.entropy is not None
        errors.append((scores.entropy.to(true.entropy) - true.entropy).abs())
        stated.append(scores.entropy_error.to(true.entropy))
    error = torch.cat(errors)
    one, two = ((error <= n * torch.cat(stated) + ROUNDING).double().mean() for n in (1, 2))
    return Stopping(
        steps=with_entropy.double().mean().item(),
        steps_for_pairs=for_pairs.double().mean().item(),
        waited=(with_entropy > for_pairs).double().mean().item(),
        within=(one.item(), two.item()),
        images=len(error),
    )


def _count_steps(vae: VAE, x: Tensor, entropy: bool) -> Tensor:
    metric = pb.expected_metric(encoder_of(vae), x)
    rule = is_entropy_accurate if entropy else None
    request = Request(K, "golub-kahan", stopping_rule=rule)
    with torch.inference_mode():
        pairs = solve(metric, request, SampleStreams(len(x), as_generator(None))).pairs
    return pairs.iterations

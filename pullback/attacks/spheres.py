"""Directions, and points of a ball, for each sample of a batch."""

import torch
from torch import Tensor

from ..sampling import SampleStreams


def random_directions(streams: SampleStreams, like: Tensor) -> Tensor:
    """Uniform on the unit sphere, ``(B, *event)``, with the dtype and device of ``like``."""
    return normalized(streams.normal(*like.shape[1:], like=like))


def random_points(streams: SampleStreams, like: Tensor) -> Tensor:
    """Uniform in the unit ball, ``(B, *event)``.

    The first N coordinates of a uniform point on the sphere in N + 2 dimensions are (Voelker,
    Gosmann & Stewart 2017, "Efficiently sampling vectors and coordinates from the n-sphere and
    n-ball").
    """
    numel = like[0].numel()
    on_sphere = normalized(streams.normal(numel + 2, like=like))
    return on_sphere[:, :numel].reshape(like.shape)


def norms(vectors: Tensor) -> Tensor:
    """‖v‖₂ of each sample of ``(B, *event)``; squares neither over- nor underflow."""
    _, length, largest = _bring_near_one(vectors)
    return length * largest


def normalized(vectors: Tensor) -> Tensor:
    """v/‖v‖₂ for each sample of ``(B, *event)``; 0 stays 0."""
    near_one, length, _ = _bring_near_one(vectors)
    return near_one / samplewise(torch.where(length > 0, length, 1.0), vectors)


def _bring_near_one(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v/max |v|, its length, and max |v|, or 1 for 0, of each sample.

    The last is a constant to derivatives.
    """
    largest = vectors.detach().flatten(1).abs().amax(1)
    largest = torch.where(largest > 0, largest, 1.0)
    near_one = vectors / samplewise(largest, vectors)
    return near_one, torch.linalg.vector_norm(near_one.flatten(1), dim=1), largest


def into_ball(vectors: Tensor, radius: float) -> Tensor:
    """The nearest points of the ball around 0."""
    excess = (norms(vectors) / radius).clamp(min=1)
    return vectors / samplewise(excess, vectors)


def samplewise(values: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` with the dimensions that broadcasting it to ``(B, *event)`` needs."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))

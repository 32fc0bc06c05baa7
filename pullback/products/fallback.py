"""When captured graphs may be relied upon, and what is said when they may not."""

import logging

import torch
from torch import Tensor

logger = logging.getLogger("pullback")


def relative_distance(a: Tensor, b: Tensor) -> float:
    """max |a − b| / max |b|; infinite where shapes differ or a number is NaN."""
    if a.shape != b.shape:
        return float("inf")
    distance, largest = (a - b).abs().amax(), b.abs().amax()
    ratio = torch.where(distance == 0, 0.0, distance / largest)
    return ratio.nan_to_num(nan=float("inf")).item()


def rounding_tolerance(dtype: torch.dtype) -> float:
    """How far two results of one computation, in another order, may be apart relatively."""
    return float(torch.finfo(dtype).eps ** 0.5)


def is_close(a: Tensor, b: Tensor) -> bool:
    """Whether two results of one computation agree, but for rounding."""
    return relative_distance(a, b) <= rounding_tolerance(b.dtype)


def are_adjoint(x: Tensor, y: Tensor, u: Tensor, v: Tensor, Jv: Tensor, Jtu: Tensor) -> bool:
    """Whether uᵀ(Jv) = (Jᵀu)ᵀv for the derivative of y by x, as far as rounding may let it.

    Tensors are ``(B, ·)``; the two sides are summed over the batch. What is not finite is for
    others to refuse.
    """
    left, right = (u * Jv).detach(), (v * Jtu).detach()
    scale = left.abs().sum() + right.abs().sum()
    # Products that are all but 0, as those of a saturated softmax, are rounding error.
    largest = x.detach().abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    floor = y.detach().abs().max() * u.detach().norm() * v.norm() / largest
    difference = (left.sum() - right.sum()).abs()
    return not difference > rounding_tolerance(x.dtype) * (scale + floor)


def log_uncaptured(error: Exception) -> None:
    """One line that says why a map's products are not, or no more, captured."""
    logger.info("the map's products are differentiated anew, not captured: %s", first_line(error))


def first_line(error: Exception) -> str:
    """Of its message, or its type if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

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


def log_uncaptured(error: Exception) -> None:
    """One line that says why a map's products are not, or no more, captured."""
    logger.info("the map's products are differentiated anew, not captured: %s", first_line(error))


def first_line(error: Exception) -> str:
    """Of its message, or its type if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""When captured graphs may be relied upon, and what is said when they may not."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger("pullback")

MIXES = (
    "the map gives a sample another {} in a batch than alone; call .eval() and take out "
    "what mixes samples (batch statistics)"
)
# Samples of a batch that are looked at alone.
_PLACES = 4


def relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """max |a − b| / max |b|, ``()``; infinite where shapes differ or a number is NaN."""
    if a.shape != b.shape:
        return b.new_tensor(float("inf"))
    distance, largest = (a - b).abs().amax(), b.abs().amax()
    ratio = torch.where(distance == 0, 0.0, distance / largest)
    return ratio.nan_to_num(nan=float("inf"))


def rounding_tolerance(dtype: torch.dtype) -> float:
    """How far two results of one computation, in another order, may be apart relatively."""
    return float(torch.finfo(dtype).eps ** 0.5)


def is_close(a: Tensor, b: Tensor) -> bool:
    """Whether two results of one computation agree, but for rounding."""
    return bool(relative_distance(a, b) <= rounding_tolerance(b.dtype))


def are_adjoint(x: Tensor, y: Tensor, u: Tensor, v: Tensor, Jv: Tensor, Jtu: Tensor) -> Tensor:
    """Whether uᵀ(Jv) = (Jᵀu)ᵀv for the derivative of y by x, as far as rounding may let it.

    Tensors are ``(B, ·)``; the two sides are summed over the batch. What is not finite is for
    others to refuse. What is returned is ``()`` bool.
    """
    whole = (tensor.reshape(1, -1) for tensor in (u, v, Jv, Jtu))
    return find_adjoint(x, y, *whole).all()


def find_adjoint(x: Tensor, y: Tensor, u: Tensor, v: Tensor, Jv: Tensor, Jtu: Tensor) -> Tensor:
    """The samples of which uᵀ(Jv) = (Jᵀu)ᵀv, ``(B,)`` bool; see :func:`are_adjoint`.

    It holds for a whole batch whatever the map, and for each sample if none influences another.
    """
    left, right = ((a * b).detach().flatten(1) for a, b in ((u, Jv), (v, Jtu)))
    scale = left.abs().sum(1) + right.abs().sum(1)
    # Products that are all but 0, as those of a saturated softmax, are rounding error.
    largest = x.detach().abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    lengths = u.detach().flatten(1).norm(dim=1) * v.detach().flatten(1).norm(dim=1)
    floor = y.detach().abs().max() * lengths / largest
    difference = (left.sum(1) - right.sum(1)).abs()
    return ~(difference > rounding_tolerance(x.dtype) * (scale + floor))


def require_same_alone(
    function: Callable[..., Tensor], x: Tensor, samplewise: Sequence[Tensor], y: Tensor
) -> None:
    """Refuse ``y = function(x, *samplewise)`` of a batch if a few samples give another one alone.

    The first sample and the last are among them. What rounding errors make of a sample that is
    changed by a few of them is allowed too; what is not finite in y is for others to refuse.

    Raises:
        ValueError: one of them does.
    """
    eps, on_host = torch.finfo(y.dtype).eps, y.device.type == "cpu"
    # An accelerator may choose a kernel of less precision for another size.
    allowed = rounding_tolerance(y.dtype) * y.abs().max() * (1 if on_host else 10)
    for place in {round(i * (len(x) - 1) / (_PLACES - 1)) for i in range(_PLACES)}:
        one, given = x[place : place + 1], [tensor[place : place + 1] for tensor in samplewise]
        alone = function(one, *given)
        among = y[place : place + 1]
        difference = _largest_difference(among, alone)
        if difference <= allowed or not among.isfinite().all():  # never less if one is NaN
            continue
        rounding = _largest_difference(function(one * (1 - 4 * eps), *given), alone)
        if not difference <= 10 * rounding:
            raise ValueError(MIXES.format("result"))


def _largest_difference(a: Tensor, b: Tensor) -> float:
    """max |a − b|; infinite where shapes differ."""
    return (a - b).detach().abs().max().item() if a.shape == b.shape else float("inf")


def log_uncaptured(error: Exception) -> None:
    """One line that says why a map's products are not, or no more, captured."""
    logger.info("the map's products are differentiated anew, not captured: %s", first_line(error))


def first_line(error: Exception) -> str:
    """Of its message, or its type if there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

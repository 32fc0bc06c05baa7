"""What a number, a choice, an operator or a device must be; each refusal is one sentence."""

import math
import operator as arithmetic
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

FLOATING = (torch.float32, torch.float64)


class NotFiniteError(ValueError):
    """Values are not finite, or have no place in their dtype, for some samples only."""


def require_integer(
    name: str, value: Any, least: int, most: int | None = None, limit: str = ""
) -> int:
    """The value as a plain integer.

    Args:
        name: what the value is called in messages.
        value: any integer, NumPy's and 0-dimensional tensors included; no bool.
        least, most: the bounds, both included; None for no upper one.
        limit: what the upper bound is called, such as ``"N"``.

    Raises:
        TypeError: it is no integer.
        ValueError: it lies outside of the bounds.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = arithmetic.index(value)
    if most is None and number < least:
        raise ValueError(f"{name}={number} must be at least {least}")
    if most is not None and not least <= number <= most:
        bound = f"{limit} = {most}" if limit else f"{most}"
        raise ValueError(f"{name}={number} must lie between {least} and {bound}")
    return number


def require_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices; otherwise a ValueError that names them."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
    return value


def require_positive(name: str, value: Any) -> float:
    """The value as a positive, finite number; otherwise a ValueError."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be a positive, finite number")
    return float(value)


def is_number(value: object) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_square(operator: object) -> None:
    """Refuse what is no square linear operator in float32 or float64.

    Raises:
        TypeError: it is no LinearOperator, or of another dtype.
        ValueError: it is not square, or empty.
    """
    if not isinstance(operator, LinearOperator):
        hint = (
            "; wrap it with linear_operator.to_linear_operator, or its root J as "
            "pb.PullbackMetric(J)"
            if isinstance(operator, Tensor)
            else ""
        )
        raise TypeError(f"expected a LinearOperator, got {type(operator).__name__}{hint}")
    if operator.shape[-2] != operator.shape[-1] or operator.shape[-1] == 0:
        raise ValueError(
            f"expected a square operator of shape (*batch, N, N), got {tuple(operator.shape)}"
        )
    if operator.dtype not in FLOATING:
        raise TypeError(f"the operator must be float32 or float64, got {plain(operator.dtype)}")


def require_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor, and tensors that are sparse, nested or have no values."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        kind = "on the meta device" if value.is_meta else f"in layout {value.layout}"
        kind = "that is nested" if value.is_nested else kind
        raise TypeError(f"{name} must be a dense tensor with values, got one {kind}")


def require_finite(values: Tensor, problem: str, first: int = 0) -> None:
    """Raise a NotFiniteError that names the samples of ``(B, *rest)`` which are not all finite.

    Samples are counted from ``first``.
    """
    if values.detach().sum().isfinite():  # a look at every value takes longer
        return
    rows = values.detach().reshape(len(values), -1)
    bad = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(first + i) for i in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise NotFiniteError(f"{problem} in sample {shown}")


def narrow(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """The values in that dtype; a NotFiniteError where one has no place there."""
    narrowed = values.to(dtype)
    if (narrowed.isinf() & values.isfinite()).any():
        raise NotFiniteError(
            f"{name} up to {values[values.isfinite()].abs().max().item():.1e} exceeds the range of "
            f"{dtype}; use float64 inputs, or scale the map's outputs down"
        )
    return narrowed


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: PyTorch does not know it, or cannot use it here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def plain(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")

"""What an attack can be made with; each refusal is one sentence."""

import math
from collections.abc import Sequence
from numbers import Real

from torch import Tensor

Range = tuple[float, float]


def check_positive(name: str, value: float) -> float:
    """A positive, finite number, or a ValueError."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be a positive, finite number")
    return float(value)


def check_clip(clip: Sequence[float] | None) -> Range | None:
    """An increasing pair of numbers, or None; anything else is a ValueError."""
    if clip is None:
        return None
    pair = tuple(clip) if isinstance(clip, Sequence) else ()
    if len(pair) != 2 or not all(map(_is_number, pair)) or not pair[0] < pair[1]:
        raise ValueError(
            f"clip={clip!r} must be None or an increasing pair of numbers, such as (0, 1)"
        )
    return float(pair[0]), float(pair[1])


def check_inside(x: Tensor, clip: Range | None) -> None:
    """Refuse inputs that clipping would change before any step."""
    if clip is None:
        return
    least, most = (bound.item() for bound in x.aminmax())
    if least < clip[0] or most > clip[1]:
        raise ValueError(
            f"x has values from {least:.6g} to {most:.6g}, outside of clip=({clip[0]:g}, "
            f"{clip[1]:g}); give the range that the encoder's inputs have"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""What an attack can be made with; each refusal is one sentence."""

from collections.abc import Sequence

from torch import Tensor

from ..arguments import is_number

Range = tuple[float, float]


def check_clip(clip: Sequence[float] | None) -> Range | None:
    """An increasing pair of numbers, or None; anything else is a ValueError."""
    if clip is None:
        return None
    pair = tuple(clip) if isinstance(clip, Sequence) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not pair[0] < pair[1]:
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

"""Images and directions as small pictures within a page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MOST_PIXELS = 256
# Where a direction takes away and where it adds; white where it does nothing.
_LESS, _MORE = np.array([33, 102, 172.0]), np.array([178, 24, 43.0])


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are grey or have three colours, with the channel first."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def image_uri(image: NDArray) -> str:
    """An image as it is; one that leaves [0, 1] is scaled from its least to its largest value."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / ((high - low) or 1.0)
    return _as_uri(_pixels_last(image) * 255.0)


def direction_uri(direction: NDArray) -> str:
    """A direction: grey ones from blue, less, over white to red, more; coloured ones around grey.

    An eigenvector is as good as its opposite: the sign is chosen so that the sum is not negative.
    """
    change = _pixels_last(direction).astype(np.float64)
    change = change / (np.abs(change).max() or 1.0) * (-1.0 if change.sum() < 0 else 1.0)
    if change.ndim == 3:
        return _as_uri(127.5 * (1.0 + change))
    towards = np.where(change[..., None] < 0, _LESS, _MORE)
    return _as_uri(255.0 + np.abs(change)[..., None] * (towards - 255.0))


def _pixels_last(image: NDArray) -> NDArray:
    """``(h, w)`` or ``(h, w, 3)``."""
    if image.ndim == 3:
        return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return image


def _as_uri(pixels: NDArray) -> str:
    picture = Image.fromarray(np.round(pixels).astype(np.uint8))
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

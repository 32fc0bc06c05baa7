"""Images and directions as small pictures."""

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


def draw_image(image: NDArray, like: NDArray | None = None) -> bytes:
    """An image as it is, as a PNG file.

    If ``like``, the image itself by default, leaves [0, 1], its least value becomes black and its
    largest white.
    """
    like = image if like is None else like
    low, high = float(like.min()), float(like.max())
    if low < 0 or high > 1:
        image = (image - low) / ((high - low) or 1.0)
    return _as_png(np.clip(_pixels_last(image), 0, 1) * 255.0)


def draw_direction(direction: NDArray) -> bytes:
    """Grey directions from blue, less, over white to red, more; coloured ones around grey."""
    change = _pixels_last(direction).astype(np.float64)
    change = change / (np.abs(change).max() or 1.0)
    if change.ndim == 3:
        return _as_png(127.5 * (1.0 + change))
    towards = np.where(change[..., None] < 0, _LESS, _MORE)
    return _as_png(255.0 + np.abs(change)[..., None] * (towards - 255.0))


def as_uri(png: bytes) -> str:
    """What a page shows without another file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _pixels_last(image: NDArray) -> NDArray:
    """``(h, w)`` or ``(h, w, 3)``."""
    if image.ndim == 3:
        return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return image


def _as_png(pixels: NDArray) -> bytes:
    picture = Image.fromarray(np.round(pixels).astype(np.uint8))
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

"""Pixels of an image file: which formats are read, and how one is cut and shrunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arguments import require_integer
from .images import BadImageError

EXTENSIONS = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
PIXELS = (
    "Bytes are divided by 255. Alpha is dropped, and EXIF orientation is ignored: pixels are taken "
    "as they are stored. Of several images in a file, as in an animation, the first is taken."
)
# All that Pillow may take a file for, whatever its name: it would start Ghostscript for others.
_PILLOW = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 2**26
# What Pillow raises for a file that is damaged, or large beyond belief.
_NO_IMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_GRAY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


class Format(NamedTuple):
    """What all images of a data set share."""

    width: int
    height: int
    gray: bool

    def __str__(self) -> str:
        return f"{self.width}×{self.height} {'gray' if self.gray else 'colour'}"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of an image, with the channel first."""
        return (1 if self.gray else 3, self.height, self.width)


@dataclass(frozen=True)
class Framing:
    """How an image is cut and shrunk.

    Attributes:
        crop: side of the square that is cut from the centre, in pixels; None for the whole image.
        resize: side of the square that is made of it by bilinear interpolation, which averages
            where it shrinks; None for the size that it has.
    """

    crop: int | None = None
    resize: int | None = None

    def __post_init__(self) -> None:
        for name, side in vars(self).items():
            if side is not None:
                require_integer(name, side, 1)

    @property
    def facts(self) -> dict[str, str]:
        """What of it decides the pixels."""
        return {name: str(side) for name, side in vars(self).items() if side is not None}

    def format_of(self, image: Image.Image, name: str | Path) -> Format:
        """What becomes of an opened image; its pixels are not decoded.

        Raises:
            BadImageError: it has not 8 bits, is smaller than ``crop``, or no square to be shrunk.
        """
        if image.mode not in (*_GRAY, *_COLOUR):
            raise BadImageError(f"{name} has mode {image.mode}; images of 8 bits are needed")
        size = width, height = image.size
        if self.crop is not None:
            if min(size) < self.crop:
                raise BadImageError(
                    f"{name} has {width}×{height} pixels; a crop of {self.crop} needs at least "
                    f"{self.crop}×{self.crop}"
                )
            size = self.crop, self.crop
        if self.resize is not None:
            if size[0] != size[1]:
                raise BadImageError(
                    f"{name} has {width}×{height} pixels; resize takes squares, which crop cuts"
                )
            size = self.resize, self.resize
        return Format(*size, image.mode in _GRAY)

    def pixels_of(self, image: Image.Image) -> NDArray[np.uint8]:
        """``(C, h, w)`` of an image that :meth:`format_of` accepts."""
        gray = image.mode in _GRAY
        image = image.convert("L" if gray else "RGB")
        if self.crop is not None:
            left, top = (round((side - self.crop) / 2) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        if gray:
            return pixels[None].astype(np.uint8)
        return pixels.transpose(2, 0, 1)


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """An image whose header has been read.

    Raises:
        BadImageError: it is none of the formats that are read, damaged, or too large; also where
            its pixels are decoded within the block.
        ValueError: the system cannot read it, which says nothing about the image.
    """
    try:
        with Image.open(file, formats=_PILLOW) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than 2^26 pixels")
            yield image
    except _NO_IMAGE as error:
        is_system = isinstance(error, OSError) and error.errno is not None
        kind = ValueError if is_system else BadImageError
        raise kind(f"{file} cannot be read as an image: {error}") from error

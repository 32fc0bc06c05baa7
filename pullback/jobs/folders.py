"""Folders of images: listed at once, opened one by one when they are read."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import Images, Stamp, require_unchanged

EXTENSIONS = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
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


def open_folder(path: Path) -> Images:
    """The images of a folder, subfolders included, in the order of their names.

    They are listed only; each is opened when it is read.

    Raises:
        ValueError: there are none, or the first is no image.
    """
    files = sorted(_list_files(path), key=lambda found: found[0].parts)
    if not files:
        idx = sorted(path.glob("*images-idx3-ubyte*"))
        hint = f"; for its IDX file give {idx[0]}" if idx else ""
        raise ValueError(f"no images in {path}{hint}")
    paths, stamps = [file for file, _ in files], [stamp for _, stamp in files]
    first = _open_first(paths[0])

    def read(start: int, stop: int) -> NDArray[np.float32]:
        listed = zip(paths[start:stop], stamps[start:stop], strict=True)
        pixels = np.stack([_read_one(file, stamp, first) for file, stamp in listed])
        return pixels.astype(np.float32) / np.float32(255)

    # A name that is no UTF-8 is kept with escapes, as it cannot be stored otherwise.
    relative = [str(file.relative_to(path)) for file in paths]
    names = [name.encode("utf-8", "backslashreplace").decode() for name in relative]
    facts = {
        "listing": _hash_lines(f"{n} {s.bytes}" for n, s in zip(names, stamps, strict=True)),
        "modified": _hash_lines(str(stamp.modified) for stamp in stamps),
    }
    return Images(path, len(paths), first.event_shape, read, names=names, facts=facts)


def _list_files(folder: Path) -> Iterator[tuple[Path, Stamp]]:
    """What may be an image by its name, hidden files and folders left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not entry.is_symlink():  # which could lead in a circle
                    yield from _list_files(Path(entry.path))
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                if not entry.is_file():
                    raise ValueError(f"{entry.path} is no regular file")
                yield Path(entry.path), Stamp.of(entry.stat())


def _hash_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _Format(NamedTuple):
    """What all images of a folder share."""

    name: str
    width: int
    height: int
    gray: bool
    is_usable: bool

    @classmethod
    def of(cls, file: Path, image: Image.Image) -> "_Format":
        """That of an opened image, of any mode."""
        gray = image.mode in _GRAY
        return cls(file.name, image.width, image.height, gray, gray or image.mode in _COLOUR)

    def __str__(self) -> str:
        return f"{self.width}×{self.height} {'gray' if self.gray else 'colour'}"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of an image, with the channel first."""
        return (1 if self.gray else 3, self.height, self.width)


def _open_first(file: Path) -> _Format:
    """What all images of the folder must be, by the header of this one."""
    with _opened(file) as image:
        mode, found = image.mode, _Format.of(file, image)
    if not found.is_usable:
        raise ValueError(f"{file} has mode {mode}; images of 8 bits are needed")
    return found


def _read_one(file: Path, stamp: Stamp, first: _Format) -> NDArray[np.uint8]:
    """``(C, h, w)`` of a file that must be as it was listed, and like the first."""
    with _opened(file) as image:
        mode, found = image.mode, _Format.of(file, image)
        pixels = np.asarray(image.convert("L" if first.gray else "RGB"))
    require_unchanged(file, stamp)
    if not found.is_usable:
        raise ValueError(f"{file} has mode {mode}; images of 8 bits are needed")
    if found[1:] != first[1:]:
        raise ValueError(
            f"{file} is {found} but {first.name} is {first}; all images must have one size and "
            "number of channels"
        )
    return pixels[None] if first.gray else pixels.transpose(2, 0, 1)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_PILLOW) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than 2^26 pixels")
            yield image
    except _NO_IMAGE as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error

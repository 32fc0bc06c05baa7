"""Images from disk as float32 arrays, a slice at a time: NumPy and IDX files, folders of images."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORMATS = "a .npy or .npz array, an IDX file (.gz or not) or a folder of images"
EXTENSIONS = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
# All that Pillow may take a file for, whatever its name: it would start Ghostscript for others.
_PILLOW = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_MOST_PIXELS = 2**26
_PIXELS_AT_ONCE = 2**24
# What Pillow raises for a file that is damaged, or large beyond belief.
_NO_IMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_GRAY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Images:
    """``count`` images of one shape.

    Attributes:
        path: where they come from.
        count: how many.
        event_shape: shape of one image, with the channel first.
        labels: ``(count,)`` int64, or None where unknown.
        names: file names within the folder, or None if the images do not come from one.
        read: ``read(start, stop)`` gives ``(stop − start, *event_shape)``, float64 if they are
            stored so, else float32; bytes become numbers in [0, 1].
    """

    path: Path
    count: int
    event_shape: tuple[int, ...]
    read: Callable[[int, int], NDArray[np.floating]]
    labels: NDArray[np.int64] | None = None
    names: list[str] | None = None

    def digest(self) -> str:
        """SHA-256 of shape, labels and every value, which are all checked on the way.

        Raises:
            ValueError: an image cannot be read, or holds NaN or infinite values; it is named.
        """
        sha = hashlib.sha256(repr((self.count, self.event_shape)).encode())
        step = max(1, _PIXELS_AT_ONCE // math.prod(self.event_shape))
        for start in range(0, self.count, step):
            images = self.read(start, min(start + step, self.count))
            finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
            if not finite.all():
                bad = start + int(np.argmin(finite))
                raise ValueError(f"image {bad} of {self.path} holds NaN or infinite values")
            sha.update(np.ascontiguousarray(images).data)
        if self.labels is not None:
            sha.update(self.labels.tobytes())
        sha.update("\n".join(self.names or []).encode())
        return sha.hexdigest()


def open_images(path: str | Path) -> Images:
    """Open a data set without reading all of it.

    Args:
        path: a ``.npy`` array ``(n, *event)``; an ``.npz`` file with such an array, alone or named
            ``images`` or ``x``, and labels, if any, named ``labels`` or ``y``; an IDX file of
            images, whose labels are looked for beside it under the usual name; or a folder of
            images of one size, read in the order of their names, subfolders included. Bytes are
            divided by 255, floating-point values are taken as they are.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: the file is of another kind, damaged or empty, or the images differ in shape.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}; give {FORMATS}")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ValueError(f"{path} is no regular file; give {FORMATS}")
    if path.suffix in (".npy", ".npz"):
        return _open_numpy(path)
    if path.name.endswith(("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")) or _looks_like_idx(path):
        return _open_idx(path)
    raise ValueError(f"cannot tell what {path} is; give {FORMATS}")


def from_array(path: Path, images: NDArray, labels: NDArray | None = None) -> Images:
    """Images that are in memory; ``path`` is what they are called.

    Args:
        path: a name for messages and for the manifest.
        images: ``(n, *event)``, uint8 (divided by 255 when read) or floating point.
        labels: ``(n,)`` integers.

    Raises:
        ValueError: another shape or dtype.
    """
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"{path} holds an array of shape {images.shape}; (n, *event) is needed")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {images.dtype} values; uint8 (0 to 255) or floating point is needed"
        )
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"the labels of {path} are {labels.dtype} of shape {labels.shape}; "
                f"({len(images)},) integers are needed"
            )
        labels = labels.astype(np.int64)

    def read(start: int, stop: int) -> NDArray[np.floating]:
        part = images[start:stop]
        if images.dtype == np.uint8:
            return part.astype(np.float32) / np.float32(255)
        return part.astype(np.float64 if images.dtype == np.float64 else np.float32)

    return Images(path, len(images), tuple(images.shape[1:]), read, labels)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes, gzipped or not (format: Y. LeCun's MNIST page)."""
    try:
        opener = gzip.open if _is_gzipped(path) else open
        with opener(path, "rb") as file:
            shape = _read_idx_header(path, file)
            size = math.prod(shape)
            values = b"".join(_read_at_most(file, size + 1))
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(values) != size:
        there = "more" if len(values) > size else len(values)
        raise ValueError(
            f"{path} is truncated or damaged: shape {shape} needs {size} bytes, {there} are there"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_idx_header(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[int, ...]:
    """The shape of the array that follows."""
    kind = file.read(4)
    if len(kind) < 4 or kind[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no IDX file of bytes: it starts with {kind.hex(' ')}")
    lengths = file.read(4 * kind[3])
    if len(lengths) < 4 * kind[3]:
        raise ValueError(f"{path} is truncated within its header")
    return struct.unpack(f">{kind[3]}I", lengths)


def _read_at_most(file: IO[bytes] | gzip.GzipFile, size: int) -> Iterator[bytes]:
    """So many bytes or what there is, in parts: a header may promise any number."""
    while size and (part := file.read(min(size, 2**24))):
        yield part
        size -= len(part)


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _looks_like_idx(path: Path) -> bool:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return file.read(3) == b"\0\0\x08"
    except (OSError, EOFError):
        return False


def _open_idx(path: Path) -> Images:
    images = read_idx(path)
    if images.ndim != 3:
        raise ValueError(f"{path} holds an array of shape {images.shape}, not images (n, h, w)")
    labels = None
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside != path and beside.exists():
        labels = read_idx(beside)
    return from_array(path, images[:, None], labels)


def _open_numpy(path: Path) -> Images:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # a damaged file makes its readers fail in many ways
        raise ValueError(f"{path} cannot be read as a NumPy array: {error}") from error
    labels = arrays.pop("labels", arrays.pop("y", None))
    images = arrays.pop("images", arrays.pop("x", None))
    if images is None and len(arrays) == 1:
        (images,) = arrays.values()
    if images is None:
        raise ValueError(
            f"{path} holds arrays named {sorted(arrays)}; call the images 'images' or 'x'"
        )
    return from_array(path, images, labels)


def _open_folder(path: Path) -> Images:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in EXTENSIONS
        and not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        idx = sorted(path.glob("*images-idx3-ubyte*"))
        hint = f"; for its IDX file give {idx[0]}" if idx else ""
        raise ValueError(f"no images in {path}{hint}")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} is no regular file")
    first = _open_image(files[0])
    size, gray = first.size, first.mode in _GRAY
    for file in files:
        image = _open_image(file)
        if image.mode not in _GRAY + _COLOUR:
            raise ValueError(f"{file} has mode {image.mode}; images of 8 bits are needed")
        if image.size != size or (image.mode in _GRAY) != gray:
            raise ValueError(
                f"{file} is {_appearance(image)} but {files[0].name} is {_appearance(first)}; "
                "all images must have one size and number of channels"
            )

    def read(start: int, stop: int) -> NDArray[np.float32]:
        pixels = np.stack([_pixels(file, "L" if gray else "RGB") for file in files[start:stop]])
        return pixels.astype(np.float32) / np.float32(255)

    shape = (1 if gray else 3, size[1], size[0])
    # A name that is no UTF-8 is kept with escapes, as it cannot be stored otherwise.
    relative = [str(file.relative_to(path)) for file in files]
    names = [name.encode("utf-8", "backslashreplace").decode() for name in relative]
    return Images(path, len(files), shape, read, names=names)


def _open_image(file: Path) -> Image.Image:
    """Reads the header only, and closes the file."""
    with _opened(file) as image:
        return image


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_PILLOW) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than 2^26 pixels")
            yield image
    except _NO_IMAGE as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


def _pixels(file: Path, mode: str) -> NDArray[np.uint8]:
    """``(C, h, w)``."""
    with _opened(file) as image:
        pixels = np.asarray(image.convert(mode))
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _appearance(image: Image.Image) -> str:
    return f"{image.width}×{image.height} {'gray' if image.mode in _GRAY else 'colour'}"

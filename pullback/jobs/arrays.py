"""Arrays of images in files: NumPy's, and the IDX format of MNIST."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from .images import Images, Stamp, from_array, require_unchanged


def open_numpy(path: Path) -> Images:
    """A ``.npy`` array, mapped into memory, or those of an ``.npz`` file."""
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
    if not isinstance(images, np.memmap):
        return from_array(path, images, labels)
    # What is too large for the memory is not read to the end before it is scored.
    stamp = Stamp.of(path.stat())
    whole = from_array(path, images, labels, {k: str(v) for k, v in vars(stamp).items()})

    def read(start: int, stop: int) -> NDArray:
        require_unchanged(path, stamp)  # the system ends who reads what has been cut off
        part = whole.read_stored(start, stop)
        require_unchanged(path, stamp)
        return part

    return replace(whole, read_stored=read)


def open_idx(path: Path) -> Images:
    """An IDX file of images, with the labels that lie beside it under the usual name."""
    images = read_idx(path)
    if images.ndim != 3:
        raise ValueError(f"{path} holds an array of shape {images.shape}, not images (n, h, w)")
    labels = None
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside != path and beside.exists():
        labels = read_idx(beside)
    return from_array(path, images[:, None], labels)


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


def looks_like_idx(path: Path) -> bool:
    """Whether it begins like an IDX file of bytes, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return file.read(3) == b"\0\0\x08"
    except (OSError, EOFError):
        return False

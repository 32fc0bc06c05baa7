"""Images of one shape, from wherever: read a slice at a time, and known by cheap facts."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Place = TypeVar("Place")
Found = TypeVar("Found")


class BadImageError(ValueError):
    """An image is damaged or unlike the others; those beside it can be read all the same."""


@dataclass(frozen=True)
class Images:
    """``count`` images of one shape.

    Attributes:
        path: where they come from.
        count: how many.
        event_shape: shape of one image, with the channel first.
        read_stored: ``read_stored(start, stop)`` gives ``(stop − start, *event_shape)``: bytes as
            they are, uint8, else float64 if they are stored so, or float32. A ValueError says which
            image cannot be read, or has changed since the images were opened; it is a BadImageError
            where others can be read all the same.
        labels: ``(count,)`` int64, or None where unknown.
        names: file names within the folder, or None if the images do not come from one.
        facts: what tells these images from others without reading all of them.
        skip_bad: whether an image with a BadImageError is noted as failed, not the end of the run.
        source: opens them anew, which is how they reach other processes; None where they are sent
            as they are.
    """

    path: Path
    count: int
    event_shape: tuple[int, ...]
    read_stored: Callable[[int, int], NDArray]
    labels: NDArray[np.int64] | None = None
    names: list[str] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    skip_bad: bool = False
    source: Callable[[], "Images"] | None = None

    def __reduce__(self) -> tuple:
        if self.source is None:
            return Images, tuple(getattr(self, field.name) for field in fields(self))
        return _reopen, (self.source, self.path, self.count, self.facts)

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        """The same in floating point; bytes become numbers in [0, 1]."""
        return as_numbers(torch.from_numpy(self.read_stored(start, stop))).numpy()

    def read_finite(self, start: int, stop: int) -> NDArray[np.floating]:
        """What :meth:`read` gives.

        Raises:
            ValueError: an image cannot be read, or holds NaN or infinite values, which is a
                BadImageError; it is named.
        """
        return as_numbers(torch.from_numpy(self.read_stored_finite(start, stop))).numpy()

    def read_stored_finite(self, start: int, stop: int) -> NDArray:
        """What ``read_stored`` gives; raises as :meth:`read_finite` does."""
        images = self.read_stored(start, stop)
        if images.dtype == np.uint8:
            return images
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
        if not finite.all():
            bad = start + int(np.argmin(finite))
            raise BadImageError(f"image {bad} of {self.path} holds NaN or infinite values")
        return images

    def read_parts(self, start: int, stop: int) -> Iterator[tuple[int, NDArray | BadImageError]]:
        """Finite images as stored, and the index of the first, in one part unless some are skipped.

        Each of those is a part of its own, its error.
        """
        try:
            yield start, self.read_stored_finite(start, stop)
            return
        except BadImageError as error:
            if not self.skip_bad:
                raise
            if stop - start == 1:
                yield start, error
                return
        half = (start + stop) // 2
        yield from self.read_parts(start, half)
        yield from self.read_parts(half, stop)

    def describe(self, start: int, stop: int) -> dict[str, NDArray]:
        """Labels and file names of some images, where there are any, as columns."""
        columns: dict[str, NDArray] = {}
        if self.labels is not None:
            columns["label"] = self.labels[start:stop]
        if self.names is not None:
            columns["file"] = np.array([name.encode() for name in self.names[start:stop]])
        return columns


def _reopen(source: Callable[[], Images], path: Path, count: int, facts: dict[str, str]) -> Images:
    images = source()
    if (images.count, images.facts) != (count, facts):
        raise ValueError(f"{path} has changed since it was opened, or is another in this process")
    return images


def as_numbers(images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Stored images in floating point, where they are; bytes become numbers in [0, 1].

    These are those of float32 in every dtype and on every device.
    """
    if images.dtype == torch.uint8:
        # A GPU would multiply by the rounded inverse of a number, and divides by a tensor.
        images = images.float() / torch.full((), 255.0, device=images.device)
    return images if dtype is None else images.to(dtype)


@dataclass(frozen=True)
class Stamp:
    """Size and time of a file: another one means that its content may be another."""

    bytes: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """That of a file as the system describes it."""
        return cls(status.st_size, status.st_mtime_ns)


def require_unchanged(path: Path, stamp: Stamp) -> None:
    """Refuse a file that is no longer what it was when it was opened first."""
    if Stamp.of(path.stat()) != stamp:
        raise ValueError(f"{path} has changed since its images were listed; score into a new run")


def from_array(
    path: Path,
    images: NDArray,
    labels: NDArray | None = None,
    facts: dict[str, str] | None = None,
) -> Images:
    """Images that are in memory; ``path`` is what they are called.

    Args:
        path: a name for messages and for the manifest.
        images: ``(n, *event)``, uint8 (divided by 255 when read) or floating point.
        labels: ``(n,)`` integers.
        facts: see :class:`Images`; a checksum of all values by default.

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
        labels = as_labels(labels, path)
    if facts is None:
        facts = {"sha256": _hash_arrays(images, labels)}
    read = partial(_read_array, images)
    return Images(path, len(images), tuple(images.shape[1:]), read, labels, facts=facts)


def _read_array(images: NDArray, start: int, stop: int) -> NDArray:
    return images[start:stop].astype(stored_dtype(images.dtype))


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """uint8 as it is; of floating point float64 for more than 32 bits, in any order, or float32."""
    if dtype == np.uint8:
        return dtype
    return np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)


def as_labels(values: Sequence[int] | NDArray[np.integer], what: str | Path) -> NDArray[np.int64]:
    """Labels of ``what`` as they are stored.

    Raises:
        ValueError: one of them has no place in 64 bits.
    """
    limits = np.iinfo(np.int64)
    for label in (min(values), max(values)):
        if not limits.min <= label <= limits.max:
            raise ValueError(f"{what} has the label {label}; labels are integers of 64 bits")
    return np.array(values, np.int64)


def find_first(
    places: Iterable[Place], read: Callable[[Place], Found], all_of_them: str, *, skip_bad: bool
) -> tuple[Place, Found]:
    """The first place where there is something to read, and what: all others must be like it.

    Raises:
        BadImageError: what is there cannot be read, unless such places are skipped.
        ValueError: all are skipped.
    """
    for place in places:
        try:
            return place, read(place)
        except BadImageError:
            if not skip_bad:
                raise
    raise ValueError(f"none of the {all_of_them} can be read")


def _hash_arrays(*arrays: NDArray | None) -> str:
    """SHA-256 of dtype, shape and values."""
    sha = hashlib.sha256()
    for array in arrays:
        if array is not None:
            sha.update(f"{array.dtype.str} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()

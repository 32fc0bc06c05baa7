"""Data sets of PyTorch: read item by item, as they are asked for."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from .factories import call_factory
from .images import BadImageError, Images, as_labels, find_first, stored_dtype
from .pixels import Framing


class _Item(NamedTuple):
    pixels: NDArray
    label: int | None


def open_dataset(spec: str, framing: Framing | None = None, *, skip_bad: bool = False) -> Images:
    """Images of the data set that ``FILE_OR_MODULE:FACTORY`` returns."""
    dataset, _ = call_factory(spec, "data set")
    return from_dataset(dataset, framing, spec, skip_bad=skip_bad)


def from_dataset(
    dataset: Any, framing: Framing | None = None, name: str = "", *, skip_bad: bool = False
) -> Images:
    """Images of a map-style data set, such as a ``torch.utils.data.Dataset``.

    Args:
        dataset: has a length, and items that are an image, a tuple that starts with one, or a
            dictionary with one under ``"image"``, as in ``datasets`` of Hugging Face. An image is a
            tensor or an array ``(*event)``, uint8 (divided by 255) or floating point, or an image
            of Pillow, which becomes ``(C, h, w)``. Where the second of the first tuple, or what the
            first dictionary holds under ``"label"``, is an integer, it is the label in all of them.
        framing: how images of Pillow are cut and shrunk.
        name: what it is called; its class by default.
        skip_bad: whether items that cannot be read, or are unlike the first, are noted as failed.

    Raises:
        TypeError: it is no map-style data set, or its items are no images.
        ValueError: it is empty, or its first item cannot be read or differs from time to time.
    """
    kind = type(dataset).__qualname__
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sized or isinstance(dataset, IterableDataset | str | dict):
        keys = f" of {', '.join(map(str, dataset))}" if isinstance(dataset, dict) else ""
        raise TypeError(f"a data set with a length and numbered items is needed, got {kind}{keys}")
    name, count, framing = name or kind, len(dataset), framing or Framing()
    if count == 0:
        raise ValueError(f"{name} has no items")
    items = _Items(dataset, name, framing, skip_bad)
    place, first = items.first_place, items.first
    if _hash_item(first) != _hash_item(items.read_one(place)):
        raise ValueError(
            f"item {place} of {name} is another each time it is read; turn random transforms off"
        )
    facts = {"dataset": kind, "first": _hash_item(first), **framing.facts}
    shape = tuple(first.pixels.shape)
    read = items.read
    return Images(Path(name), count, shape, read, items.labels, facts=facts, skip_bad=skip_bad)


class _Items:
    """Reads items that must all be like the first.

    Attributes:
        first, first_place: that, and its index; more than 0 where others are skipped.
        labels: of those items that have been read, as they come with the images, and -1 of others;
            None where the first has none.
    """

    def __init__(self, dataset: Any, name: str, framing: Framing, skip_bad: bool) -> None:
        self._dataset, self._name, self._framing = dataset, name, framing
        self.first_place, self.first = find_first(
            range(len(dataset)), self.read_one, f"items of {name}", skip_bad=skip_bad
        )
        self.labels = None if self.first.label is None else np.full(len(dataset), -1, np.int64)

    def read(self, start: int, stop: int) -> NDArray:
        """Pixels of some items; their labels are noted."""
        first, name, other = self.first, self._name, f"item {self.first_place}"
        part = np.empty((stop - start, *first.pixels.shape), first.pixels.dtype)
        for i in range(start, stop):
            try:
                item = self.read_one(i)
            except TypeError as error:  # unlike the first
                raise BadImageError(str(error)) from error
            if self.labels is not None:
                if item.label is None:
                    raise ValueError(f"item {i} of {name} has no integer label, but {other} has")
                self.labels[i] = item.label
            if _describe(item) != _describe(first):
                raise BadImageError(
                    f"item {i} of {name} is {_describe(item)} but {other} is {_describe(first)}; "
                    "all images must have one shape and dtype"
                )
            part[i - start] = item.pixels
        return part

    def read_one(self, index: int) -> _Item:
        """An item, whether it is like the first or not."""
        what = f"item {index} of {self._name}"
        with _reading(what):
            item = self._dataset[index]
        label = None
        if isinstance(item, Mapping):
            if "image" not in item:
                keys = ", ".join(map(repr, item)) or "no keys"
                raise TypeError(f"{what} is a dictionary with {keys}; call the image 'image'")
            label = _as_label(item.get("label"), what)
            item = item["image"]
        elif isinstance(item, tuple | list):
            if not item:
                raise TypeError(f"{what} is an empty {type(item).__name__}")
            label = _as_label(item[1], what) if len(item) > 1 else None
            item = item[0]
        return _Item(_as_pixels(item, what, self._framing), label)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Anyone's code raises anything, and so does what decodes an image of Pillow."""
    try:
        yield
    except Exception as error:
        message = f"{what} cannot be read: {type(error).__name__}: {error}"
        raise BadImageError(message) from error


def _as_label(value: Any, what: str) -> int | None:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(as_labels([int(value)], what)[0])
    return None


def _as_pixels(image: Any, what: str, framing: Framing) -> NDArray:
    """uint8, float32 or float64."""
    if isinstance(image, Image.Image):
        framing.format_of(image, what)
        with _reading(what):
            pixels: NDArray = framing.pixels_of(image)
    elif framing != Framing():
        raise ValueError(
            f"{what} is of type {type(image).__name__}; crop and resize are for images of Pillow"
        )
    elif isinstance(image, Tensor):
        with _reading(what):
            image = image.detach().cpu()
            pixels = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    else:
        pixels = image
    if not isinstance(pixels, np.ndarray) or pixels.ndim == 0 or pixels.size == 0:
        raise TypeError(
            f"{what} is {type(image).__name__}; an image as tensor, array or of Pillow, a tuple "
            "that starts with one, or a dictionary with an 'image', is needed"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise TypeError(
            f"{what} holds {pixels.dtype} values; uint8 (0 to 255) or floating point is needed"
        )
    return pixels.astype(stored_dtype(pixels.dtype))


def _describe(item: _Item) -> str:
    return f"{item.pixels.dtype} of shape {item.pixels.shape}"


def _hash_item(item: _Item) -> str:
    sha = hashlib.sha256(f"{_describe(item)} {item.label}".encode())
    sha.update(np.ascontiguousarray(item.pixels).data)
    return sha.hexdigest()

"""Data sets of PyTorch: read item by item, as they are asked for."""

import hashlib
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
from .images import Images
from .pixels import Framing


class _Item(NamedTuple):
    pixels: NDArray
    label: int | None


def open_dataset(spec: str, framing: Framing | None = None) -> Images:
    """Images of the data set that ``FILE_OR_MODULE:FACTORY`` returns."""
    dataset, _ = call_factory(spec, "data set")
    return from_dataset(dataset, framing, spec)


def from_dataset(dataset: Any, framing: Framing | None = None, name: str = "") -> Images:
    """Images of a map-style data set, such as a ``torch.utils.data.Dataset``.

    Args:
        dataset: has a length, and items that are an image or a tuple that starts with one. An image
            is a tensor or an array ``(*event)``, uint8 (divided by 255) or floating point, or an
            image of Pillow, which becomes ``(C, h, w)``. Where the second of the first tuple is an
            integer, it is the label in all of them.
        framing: how images of Pillow are cut and shrunk.
        name: what it is called; its class by default.

    Raises:
        TypeError: it is no map-style data set, or its items are no images.
        ValueError: it is empty, or its first item cannot be read or differs from time to time.
    """
    kind = type(dataset).__qualname__
    sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sized or isinstance(dataset, IterableDataset | str | dict):
        raise TypeError(f"a data set with a length and numbered items is needed, got {kind}")
    name, count, framing = name or kind, len(dataset), framing or Framing()
    if count == 0:
        raise ValueError(f"{name} has no items")
    first = _read_item(dataset, 0, name, framing)
    if _hash_item(first) != _hash_item(_read_item(dataset, 0, name, framing)):
        raise ValueError(
            f"item 0 of {name} is another each time it is read; turn random transforms off"
        )
    shape, dtype = first.pixels.shape, first.pixels.dtype
    # They come with the images, and are known once these have been read.
    labels = None if first.label is None else np.zeros(count, np.int64)

    def read(start: int, stop: int) -> NDArray[np.floating]:
        part = np.empty((stop - start, *shape), dtype)
        for i in range(start, stop):
            item = _read_item(dataset, i, name, framing)
            if (item.pixels.shape, item.pixels.dtype) != (shape, dtype):
                raise ValueError(
                    f"item {i} of {name} is {_describe(item)} but item 0 is {_describe(first)}; "
                    "all images must have one shape and dtype"
                )
            part[i - start] = item.pixels
            if labels is not None:
                if item.label is None:
                    raise ValueError(f"item {i} of {name} has no integer label, but item 0 has")
                labels[i] = item.label
        return part

    facts = {"dataset": kind, "first": _hash_item(first), **framing.facts}
    return Images(Path(name), count, tuple(shape), read, labels, facts=facts)


def _read_item(dataset: Any, index: int, name: str, framing: Framing) -> _Item:
    try:
        item = dataset[index]
    except Exception as error:  # it is anyone's code
        raise ValueError(
            f"item {index} of {name} cannot be read: {type(error).__name__}: {error}"
        ) from error
    label = None
    if isinstance(item, tuple | list):
        if not item:
            raise TypeError(f"item {index} of {name} is an empty {type(item).__name__}")
        label = _as_label(item[1]) if len(item) > 1 else None
        item = item[0]
    return _Item(_as_pixels(item, f"item {index} of {name}", framing), label)


def _as_label(value: Any) -> int | None:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return None


def _as_pixels(image: Any, what: str, framing: Framing) -> NDArray:
    """float32 or float64, bytes divided by 255."""
    if isinstance(image, Image.Image):
        framing.format_of(image, what)
        pixels: NDArray = framing.pixels_of(image)
    elif framing != Framing():
        raise ValueError(
            f"{what} is of type {type(image).__name__}; crop and resize are for images of Pillow"
        )
    elif isinstance(image, Tensor):
        image = image.detach().cpu()
        pixels = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    else:
        pixels = image
    if not isinstance(pixels, np.ndarray) or pixels.ndim == 0 or pixels.size == 0:
        raise TypeError(
            f"{what} is {type(image).__name__}; an image as tensor, array or of Pillow, or a tuple "
            "that starts with one, is needed"
        )
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    if pixels.dtype.kind != "f":
        raise TypeError(
            f"{what} holds {pixels.dtype} values; uint8 (0 to 255) or floating point is needed"
        )
    return pixels.astype(np.float64 if pixels.dtype == np.float64 else np.float32)


def _describe(item: _Item) -> str:
    return f"{item.pixels.dtype} of shape {item.pixels.shape}"


def _hash_item(item: _Item) -> str:
    sha = hashlib.sha256(f"{_describe(item)} {item.label}".encode())
    sha.update(np.ascontiguousarray(item.pixels).data)
    return sha.hexdigest()

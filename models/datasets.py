"""Data sets as tensors in [0, 1]; `digits` and `photos` come with installed packages."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from pullback.arguments import require_choice
from pullback.jobs.arrays import read_idx

# Name → (folder of the IDX files, name at openml.org).
_IDX = {"mnist": ("MNIST", "mnist_784"), "fashion-mnist": ("FashionMNIST", "Fashion-MNIST")}
NAMES = ("digits", "photos", *_IDX)
_TRAINING_IMAGES = 60_000
# Crops of photographs: side and step of the grid in pixels; how much a photograph is shrunk first.
_SIDE, _STEP, _SCALES = 64, 24, (1, 2 / 3, 1 / 2)


class Dataset(NamedTuple):
    """Images ``(n, channels, h, w)`` float32 in [0, 1] and labels ``(n,)`` int64."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(name: str, folder: str | Path | None = None, download: bool = False) -> Dataset:
    """A data set by name.

    Args:
        name: ``"digits"`` (1 797 images of 8×8, bundled with scikit-learn; every fourth is held
            out), ``"photos"`` (2 753 + 904 crops of 64×64, in colour, from seven photographs
            bundled with scikit-image and scikit-learn; the label says which), ``"mnist"`` or
            ``"fashion-mnist"`` (60 000 + 10 000 of 28×28, split as their authors did).
        folder: holds the IDX files, or a folder ``MNIST`` or ``FashionMNIST`` with them; the
            environment variable ``PULLBACK_DATA`` if absent.
        download: fetch from openml.org, through scikit-learn, if there is no folder.

    Raises:
        ValueError: the name is unknown, or a file is damaged.
        FileNotFoundError: the files are not there; the message says where they were looked for.
    """
    require_choice("dataset", name, NAMES)
    if name == "digits":
        return _digits()
    if name == "photos":
        return _photos()
    folder = folder or os.environ.get("PULLBACK_DATA")
    places = [Path(folder), Path(folder, _IDX[name][0])] if folder else []
    for place in places:
        if _find(place, "t10k-images-idx3-ubyte"):
            return _idx_folder(place)
    if download:
        return _openml(_IDX[name][1])
    looked = " or ".join(map(str, places)) or "a folder (none given, PULLBACK_DATA is not set)"
    raise FileNotFoundError(
        f"no IDX files of {name} in {looked}; name the folder that holds "
        "train-images-idx3-ubyte.gz and so on, or ask for a download"
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images[:, None] / 16
    held_out = np.arange(len(images)) % 4 == 0
    return _dataset(images, bunch.target, ~held_out, held_out)


def _photos() -> Dataset:
    """Crops on grids; those of the right 30 % of each photograph are held out."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photographs = [
        *(data.astronaut(), data.coffee(), data.chelsea(), data.rocket()),
        data.stereo_motorcycle()[0],
        *(load_sample_image("china.jpg"), load_sample_image("flower.jpg")),
    ]
    parts = [part for x in photographs for part in np.split(x, [7 * x.shape[1] // 10], axis=1)]
    crops = [_crops(part) for part in parts]
    origin = np.repeat(np.arange(len(parts)), [len(x) for x in crops])
    held_out = origin % 2 == 1
    return _dataset(np.concatenate(crops), origin // 2, ~held_out, held_out)


def _crops(photograph: NDArray[np.uint8]) -> NDArray[np.float32]:
    from skimage.transform import rescale

    grids = []
    for scale in _SCALES:
        pixels = rescale(photograph, scale, anti_aliasing=True, channel_axis=2).astype(np.float32)
        windows = sliding_window_view(pixels, (_SIDE, _SIDE), axis=(0, 1))[::_STEP, ::_STEP]
        grids.append(windows.reshape(-1, 3, _SIDE, _SIDE))
    return np.concatenate(grids)


def _idx_folder(folder: Path) -> Dataset:
    def read(stem: str) -> NDArray[np.uint8]:
        path = _find(folder, stem)
        if path is None:
            raise FileNotFoundError(f"{folder} holds no {stem}, with .gz or without")
        return read_idx(path)

    train, test = (
        (read(f"{part}-images-idx3-ubyte"), read(f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )
    tensors = [
        tensor
        for images, labels in (train, test)
        for tensor in (
            torch.from_numpy(images[:, None].astype(np.float32) / np.float32(255)),
            torch.from_numpy(labels.astype(np.int64)),
        )
    ]
    return Dataset(*tensors)


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.exists()), None)


def _openml(name: str) -> Dataset:
    from sklearn.datasets import fetch_openml

    fetch: Callable[..., tuple[NDArray, NDArray]] = fetch_openml
    images, labels = fetch(name, version=1, return_X_y=True, as_frame=False)
    training = np.arange(len(images)) < _TRAINING_IMAGES
    return _dataset(images.reshape(-1, 1, 28, 28) / 255, labels, training, ~training)


def _dataset(images: NDArray, labels: NDArray, train: NDArray, test: NDArray) -> Dataset:
    x, y = images.astype(np.float32), labels.astype(np.int64)
    return Dataset(*(torch.from_numpy(part) for part in (x[train], y[train], x[test], y[test])))

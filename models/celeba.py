"""CelebA from the user's folder, read a batch at a time (Liu et al., ICCV 2015)."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pullback.arguments import require_choice

SPLITS = ("train", "valid", "test")
# Side of the square cut from the centre, and of the image made of it (App. A), in pixels.
CROP, SIDE = 148, 64
_IMAGES, _PARTITION = "img_align_celeba", "list_eval_partition.txt"
_LAYOUT = (
    "get img_align_celeba.zip and list_eval_partition.txt from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the former, and name the folder "
    f"that holds {_IMAGES}/ (with 000001.jpg and so on) and {_PARTITION}"
)


class CelebA:
    """One split of CelebA, as :func:`models.training.train` takes it: never all in memory.

    An image is cut to 148×148 pixels around its centre and shrunk to 64×64.

    Args:
        folder: holds ``img_align_celeba/*.jpg`` and ``list_eval_partition.txt``; the environment
            variable ``PULLBACK_DATA``, or the folder ``CelebA`` in either, if absent.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        skip_bad: leave out images that are absent or cannot be read, and count them.

    Attributes:
        shape: ``(n, 3, 64, 64)``.
        skipped: names of the images left out so far; one that cannot be read is found out when it
            is asked for.

    Raises:
        ValueError: the split is unknown or empty, or a line of the list makes no sense.
        FileNotFoundError: there is no such data; says how to lay it out. Or images that the list
            names are absent.
    """

    def __init__(
        self, folder: str | Path | None = None, split: str = "train", skip_bad: bool = False
    ) -> None:
        require_choice("split", split, SPLITS)
        root = _find(folder)
        self.folder, self.skip_bad = root / _IMAGES, skip_bad
        self.skipped: set[str] = set()
        listed = _read_partition(root / _PARTITION)[split]
        there = {entry.name for entry in os.scandir(self.folder)}
        absent = [name for name in listed if name not in there]
        if absent and not skip_bad:
            raise FileNotFoundError(
                f"{len(absent)} of the {len(listed)} images of the {split} split are not in "
                f"{self.folder} (the first is {absent[0]}); fetch them, or ask to skip bad images"
            )
        self.skipped.update(absent)
        self.names = [name for name in listed if name in there]
        if not self.names:
            raise ValueError(f"{root} has no images of the {split} split")
        self.shape = torch.Size((len(self.names), 3, SIDE, SIDE))
        # Pillow decodes outside of Python's global lock.
        self._pool = ThreadPoolExecutor()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        """The same for the same images: training compares it before it resumes."""
        return f"CelebA of {' '.join(self.names)}"

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """``(B, 3, 64, 64)`` float32 in [0, 1] for a vector of B indices, less those skipped.

        Raises:
            ValueError: an image cannot be read; it is named.
        """
        images = list(self._pool.map(self._read, index.tolist()))
        kept = [image for image in images if image is not None]
        if not kept:
            return torch.empty(0, *self.shape[1:])
        return torch.from_numpy(np.stack(kept).astype(np.float32) / np.float32(255))

    def _read(self, index: int) -> NDArray[np.uint8] | None:
        name = self.names[index]
        try:
            return _pixels(self.folder / name)
        except ValueError:
            if not self.skip_bad:
                raise
            self.skipped.add(name)
            return None


def _find(folder: str | Path | None) -> Path:
    given = folder or os.environ.get("PULLBACK_DATA")
    places = [Path(given), Path(given, "CelebA")] if given else []
    for place in places:
        if (place / _IMAGES).is_dir() and (place / _PARTITION).is_file():
            return place
    looked = " or ".join(map(str, places)) or "a folder (none given, PULLBACK_DATA is not set)"
    raise FileNotFoundError(f"no CelebA in {looked}; {_LAYOUT}")


def _read_partition(path: Path) -> dict[str, list[str]]:
    """The names in each split; a line is ``000001.jpg 0`` with 0, 1 or 2 in the order of SPLITS."""
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        match line.split():
            case [name, ("0" | "1" | "2") as code]:
                splits[SPLITS[int(code)]].append(name)
            case []:
                pass
            case _:
                raise ValueError(
                    f"line {number} of {path} is {line!r}; a file name and 0, 1 or 2 are needed"
                )
    return splits


def _pixels(file: Path) -> NDArray[np.uint8]:
    """``(3, 64, 64)``."""
    try:
        with Image.open(file) as image:
            pixels = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
    if min(pixels.size) < CROP:
        raise ValueError(
            f"{file} has {pixels.width}×{pixels.height} pixels; at least {CROP}×{CROP} are needed"
        )
    left, top = (round((side - CROP) / 2) for side in pixels.size)
    square = pixels.crop((left, top, left + CROP, top + CROP))
    small = square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)

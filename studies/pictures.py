"""Rows of small images: one row for what each of them is, one column for each original."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray
from torch import Tensor

from models.vae import VAE

from . import named_arrays
from .named_arrays import Variable

# The two steps of the paper's Figure 2, in units of λη.
DELTAS = (0.5223, 0.7443)
LAYOUT = {
    "row": Variable(("row",), "what the images of a row are"),
    "image": Variable(("image",), "index of the original"),
    "channel": Variable(("channel",), "grey, or red, green and blue"),
    "y": Variable(("y",), "pixel, from the top"),
    "x": Variable(("x",), "pixel, from the left"),
    "pixels": Variable(("row", "image", "channel", "y", "x"), "the images, in [0, 1]"),
}


@dataclass(frozen=True)
class Pictures:
    """Rows of images.

    Attributes:
        row: a label for each row.
        pixels: ``(row, image, channel, y, x)``, in [0, 1].
        title: a sentence that says what they show.
    """

    row: tuple[str, ...]
    pixels: NDArray[np.floating]
    title: str = ""

    def draw(self, figure: FigureBase) -> None:
        """Fill a figure with the rows, labelled at the left."""
        rows, columns = self.pixels.shape[:2]
        axes = np.asarray(figure.subplots(rows, columns, squeeze=False))
        for line, label, pictures in zip(axes, self.row, self.pixels, strict=True):
            for axis, picture in zip(line, pictures, strict=True):
                axis.imshow(picture.transpose(1, 2, 0).astype(float), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        figure.suptitle(self.title)

    def save(self, path: Path) -> Path:
        """Draw a figure of its own."""
        rows, columns = self.pixels.shape[:2]
        figure = plt.figure(figsize=(columns + 1.5, rows + 0.6), layout="constrained")
        self.draw(figure)
        return save_figure(figure, path)


def attacked(
    vae: VAE, x: Tensor, attacks: Sequence[tuple[Tensor, Tensor]], title: str = ""
) -> Pictures:
    """The paper's Figure 2: originals, corruptions, and what a VAE makes of each.

    Args:
        vae: in eval mode.
        x: originals, ``(n, channels, h, w)``.
        attacks: for each of ``DELTAS`` the steps and the corrupted images, of the same shape.
        title: a sentence that says what they show.
    """
    rows = [("original", x), ("reconstruction", vae.decode(vae.encode(x)[0]))]
    for delta, (step, corrupted) in zip(DELTAS, attacks, strict=True):
        before, after = (
            change.flatten(1).norm(dim=1).mean().item() for change in (step, corrupted - x)
        )
        rows.append((f"δ = {delta}\n‖δλη‖ = {before:.2f},\nclipped {after:.2f}", corrupted))
        rows.append(("reconstruction", vae.decode(vae.encode(corrupted)[0])))
    return stack(rows, title)


def stack(rows: Sequence[tuple[str, Tensor]], title: str = "") -> Pictures:
    """Pictures of labelled tensors ``(n, channels, h, w)``, to the three digits that one sees."""
    pixels = torch.stack([images.detach().cpu() for _, images in rows]).half().numpy()
    return Pictures(tuple(label for label, _ in rows), pixels, title)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write and close a figure: as PNG, and beside it as PDF, which stays sharp in print."""
    figure.savefig(path, dpi=110)
    # Without a date, the same figure is the same file.
    figure.savefig(path.with_suffix(".pdf"), dpi=110, metadata={"CreationDate": None})
    plt.close(figure)
    return path


def write(path: Path, pictures: Pictures, configuration: dict[str, Any]) -> None:
    """Write them to a file that :func:`read` and xarray open; the configuration has the title."""
    sizes = zip(("image", "channel", "y", "x"), pictures.pixels.shape[1:], strict=True)
    arrays = {"row": pictures.row, "pixels": pictures.pixels} | {
        name: np.arange(size) for name, size in sizes
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    named_arrays.write(path, LAYOUT, arrays, {**configuration, "title": pictures.title})


def read(path: Path) -> Pictures:
    """Pictures from a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    arrays, configuration = named_arrays.read(path, LAYOUT)
    return Pictures(arrays["row"], arrays["pixels"], configuration.get("title", ""))

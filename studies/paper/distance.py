"""Figure 3: how far the code moves when the image moves along the top eigenvector."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import StrMethodFormatter

from . import drawing, records
from .measurement import effort
from .records import Record
from .tables import scores_table
from .vaes import Vaes

BETAS = (0.01, 1.0, 7.5)


def distance(
    out: str, images: int = 3072, quick: bool = False, redraw: bool = False, **options: Any
) -> None:
    """Figure 3: latent distance of image and corruption against δ, for β = 0.01, 1 and 7.5.

    The same command again draws the figure without computing anything.

    Args:
        out: folder for distance.h5, distance.png, the checkpoints and what is measured of each.
        images: how many held-out images are measured.
        quick: fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path, vaes = Path(out, "distance.h5"), Vaes(out, **options)
    if redraw:
        record = records.read(path)
    else:
        subjects = [(beta, 0.0) for beta in BETAS]
        record = records.collect(path, vaes, subjects, effort(images, quick=quick))
    print(scores_table(record))
    print(f"\nfigure     {draw(record, path.with_suffix('.png'))}")


def draw(record: Record, path: Path) -> Path:
    """Means and standard deviations over images, for δλη and for steps of the same norm."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    labels = [f"β = {beta:g}" for beta in record["beta"]]
    for axis, power in zip(axes, (1, 0), strict=True):
        steps = record.steps(power)
        delta = record["delta"][steps]
        for i, label in enumerate(labels):
            mean, std = (record[f"latent_distance_{part}"][i, 0, steps] for part in ("mean", "std"))
            hue = drawing.colour(i, labels)
            axis.plot(delta, mean, color=hue, label=label)
            axis.fill_between(delta, mean - std, mean + std, color=hue, alpha=0.2, linewidth=0)
        axis.set(xscale="log", xlabel=drawing.STEP_LABELS[power])
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].set_ylabel("‖μ(x) − μ($x_c$)‖, mean ± std")
    axes[0].legend(frameon=False)
    return drawing.save(figure, path, f"{drawing.caption(record)}\nalong the top eigenvector")

"""Figure 3: how far the code moves when the image moves along the top eigenvector."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from . import drawing, records
from .measurement import effort
from .records import Record
from .tables import scores_table
from .vaes import Subject, Vaes

BETAS = (0.01, 1.0, 7.5)


def distance(
    out: str,
    images: int = 3072,
    seeds: int = 1,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figure 3: latent distance of image and corruption against δ, for β = 0.01, 1 and 7.5.

    The same command again draws the figure without computing anything.

    Args:
        out: folder for distance.h5, distance.png, the checkpoints and what is measured of each.
        images: how many held-out images are measured.
        seeds: how many trainings of each β, with the seeds from the study's own on.
        quick: fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path, vaes = Path(out, "distance.h5"), Vaes(out, **options)
    if redraw:
        record = records.read(path)
    else:
        subjects = vaes.repeated([Subject(beta) for beta in BETAS], seeds)
        record = records.collect(path, vaes, subjects, effort(images, quick=quick))
    print(scores_table(record))
    print(f"\nfigure     {draw(record, path.with_suffix('.png'))}")


def draw(record: Record, path: Path) -> Path:
    """Means over images, for δλη and for steps of the same norm; a line for each training."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    betas = np.unique(record["beta"])
    for axis, power in zip(axes, (1, 0), strict=True):
        steps = record.steps(power)
        for i, beta in enumerate(betas):
            for k, j in enumerate(np.flatnonzero(record["beta"] == beta)):
                mean = record["latent_distance_mean"][j, 0, steps]
                label = f"β = {beta:g}" if k == 0 else None
                axis.plot(
                    record["delta"][steps], mean, color=drawing.shade(i, len(betas)), label=label
                )
        axis.set(xscale="log", yscale="log", xlabel=drawing.STEP_LABELS[power])
        for side in (axis.xaxis, axis.yaxis):
            drawing.plain_ticks(side)
        axis.grid(color="0.93")
        axis.legend(frameon=False)
    axes[0].set_ylabel("‖μ(x) − μ($x_c$)‖ [latent], mean over images")
    title = (
        "How far the code moves along the top eigenvector\n"
        f"{drawing.caption(record)};\n{drawing.SIGN}"
    )
    return drawing.save(figure, path, title)

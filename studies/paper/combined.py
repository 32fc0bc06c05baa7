"""Figure 10: the scores of Figure 5 with the combined metric of Eq. 11."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from . import drawing, records
from .beta import plain, spaced
from .measurement import effort
from .records import Record
from .tables import scores_table
from .vaes import Subject, Vaes


def combined(
    out: str,
    count: int = 50,
    images: int = 1024,
    flat_images: int = 3072,
    seeds: int = 1,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figure 10: what ``beta`` shows, with the combined metric, and the ratio of the two radii.

    The VAEs, and their scores with the metric of Eq. 4, are those of ``beta`` in the same folder.

    Args:
        out: folder for combined.h5, combined.png, combined_ratio.png, and what ``beta`` leaves.
        count: how many β, evenly spaced on a logarithmic scale.
        images: how many held-out images are measured with the combined metric.
        flat_images: how many with the metric of Eq. 4, as ``images`` of ``beta``.
        seeds: how many trainings of each β, as ``seeds`` of ``beta``.
        quick: at most four β, fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path, vaes = Path(out, "combined.h5"), Vaes(out, **options)
    if redraw:
        flat, record = records.read(path.with_name("beta.h5")), records.read(path)
    else:
        flat = plain(vaes, count, flat_images, seeds, quick=quick)
        subjects = vaes.repeated([Subject(value) for value in spaced(count, quick=quick)], seeds)
        extent = effort(images, quick=quick)
        record = records.collect(path, vaes, subjects, extent, combined=True)
    print(scores_table(record))
    print(f"\nfigure     {draw(record, path.with_suffix('.png'), record.pixel_variance)}")
    print(f"figure     {draw_ratio(record, flat, path.with_name('combined_ratio.png'))}")


def draw(record: Record, path: Path, variance: float | None) -> Path:
    """Figure 10; ``variance`` as for :func:`drawing.page`."""
    title = (
        "Scores and errors after attacks as β grows, with the decoder's metric in the code "
        f"(Eq. 11)\n{drawing.caption(record)}"
    )
    return drawing.page(record, path, title, variance)


def radii(record: Record, flat: Record) -> tuple[NDArray, NDArray]:
    """``(vae, sample)`` each: ρ of Eq. 11 and of Eq. 4, for the images that have both.

    Raises:
        ValueError: the records are not of the same β.
    """
    if not np.array_equal(record["beta"], flat["beta"]):
        raise ValueError("beta.h5 and combined.h5 are not of the same β; measure both again")
    both = min(len(record["sample"]), len(flat["sample"]))
    return record.radius[:, :both], flat.radius[:, :both]


def draw_ratio(record: Record, flat: Record, path: Path) -> Path:
    """Quantiles over images of the ratio, against β."""
    record, flat = record.of_one_seed(), flat.of_one_seed()
    quantiles = np.quantile(np.divide(*radii(record, flat)), (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for low, high, shade, label in ((0, 4, "0.9", "90 % of images"), (1, 3, "0.75", "50 %")):
        edges = (quantiles[low], quantiles[high])
        axis.fill_between(record["beta"], *edges, color=shade, linewidth=0, label=label)
    axis.plot(record["beta"], quantiles[2], color="black", label="median")
    axis.axhline(1, color="tab:red", linewidth=1, linestyle=":", label="no difference")
    axis.set(xscale="log", yscale="log", xlabel="β")
    axis.set_ylabel("ρ of Eq. 11 / ρ of Eq. 4 [output²/latent²]")
    for side in (axis.xaxis, axis.yaxis):
        drawing.plain_ticks(side)
    axis.legend(frameon=False)
    title = f"What the decoder's metric does to ρ, image by image\n{drawing.caption(record)}"
    return drawing.save(figure, path, title)

"""Figure 5: robustness scores, and what attacks do, against β."""

from pathlib import Path
from typing import Any

from ..sweep import betas
from . import drawing, records
from .measurement import effort
from .tables import scores_table
from .vaes import Subject, Vaes

LOWEST, HIGHEST, QUICK_COUNT = 0.01, 10.0, 4


def beta(
    out: str,
    count: int = 50,
    images: int = 3072,
    seeds: int = 1,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figure 5: spectral radius, entropy, and errors after attacks, for many β from 0.01 to 10.

    The same command again draws the figure without computing anything; after an interruption, it
    goes on.

    Args:
        out: folder for beta.h5, beta.png, the checkpoints and what is measured of each.
        count: how many β, evenly spaced on a logarithmic scale.
        images: how many held-out images are measured.
        seeds: how many trainings of each β, with the seeds from the study's own on.
        quick: at most four β, fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path = Path(out, "beta.h5")
    vaes = Vaes(out, **options)
    record = records.read(path) if redraw else plain(vaes, count, images, seeds, quick=quick)
    print(scores_table(record))
    print(f"\nfigure     {draw(record, path.with_suffix('.png'), record.pixel_variance)}")


def draw(record: records.Record, path: Path, variance: float | None) -> Path:
    """Figure 5; ``variance`` as for :func:`drawing.page`."""
    title = f"Scores and errors after attacks as β grows\n{drawing.caption(record)}"
    return drawing.page(record, path, title, variance)


def plain(vaes: Vaes, count: int, images: int, seeds: int, *, quick: bool) -> records.Record:
    """The archive beta.h5 of VAEs without mixup."""
    subjects = vaes.repeated([Subject(value) for value in spaced(count, quick=quick)], seeds)
    return records.collect(vaes.out / "beta.h5", vaes, subjects, effort(images, quick=quick))


def spaced(count: int, *, quick: bool) -> list[float]:
    """The values of β."""
    return betas(LOWEST, HIGHEST, min(count, QUICK_COUNT) if quick else count)

"""Figure 5: robustness scores, and what attacks do, against β."""

from pathlib import Path
from typing import Any

from ..sweep import betas
from . import drawing, records
from .measurement import effort
from .tables import scores_table
from .vaes import Vaes

LOWEST, HIGHEST, QUICK_COUNT = 0.01, 10.0, 4


def beta(
    out: str,
    count: int = 50,
    images: int = 3072,
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
        quick: at most four β, fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path = Path(out, "beta.h5")
    vaes = Vaes(out, **options)
    record = records.read(path) if redraw else plain(vaes, count, images, quick=quick)
    print(scores_table(record))
    print(f"\nfigure     {drawing.page(record, path.with_suffix('.png'), drawing.caption(record))}")


def plain(vaes: Vaes, count: int, images: int, *, quick: bool) -> records.Record:
    """The archive beta.h5 of VAEs without mixup."""
    subjects = [(value, 0.0) for value in spaced(count, quick=quick)]
    return records.collect(vaes.out / "beta.h5", vaes, subjects, effort(images, quick=quick))


def spaced(count: int, *, quick: bool) -> list[float]:
    """The values of β."""
    return betas(LOWEST, HIGHEST, min(count, QUICK_COUNT) if quick else count)

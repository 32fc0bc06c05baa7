"""One VAE for each of many β, as in the paper's Figure 5."""

from pathlib import Path
from typing import Any

import numpy as np

from .paper.vaes import Subject
from .train import train

QUICK_COUNT, QUICK_EPOCHS = 3, 2


def sweep(
    out: str,
    lowest: float = 0.01,
    highest: float = 10.0,
    count: int = 50,
    epochs: int = 10,
    quick: bool = False,
    **options: Any,
) -> None:
    """Train a VAE for each of several β, spaced evenly on a logarithmic scale (Figure 5).

    Finished checkpoints are kept, so that the same command goes on after an interruption. A
    training that fails does not stop the others; all that failed are listed at the end.

    Args:
        out: folder for the checkpoints, beta-….safetensors.
        lowest: the smallest β.
        highest: the largest β.
        count: how many.
        epochs: passes over the training images.
        quick: at most three β, and two epochs.
        options: as for ``train``.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the checkpoints")
    values = betas(lowest, highest, min(count, QUICK_COUNT) if quick else count)
    passes = min(epochs, QUICK_EPOCHS) if quick else epochs
    failed = []
    for beta in values:
        path = folder / f"{Subject(beta).name}.safetensors"
        try:
            train(str(path), beta=beta, epochs=passes, **options)
        # Of one β; what else can go wrong concerns all of them.
        except (ArithmeticError, FileExistsError, RuntimeError) as error:
            print(f"{path}: failed")
            failed.append(f"{path}: {error}")
    if failed:
        lines = "\n  ".join(failed)
        raise SystemExit(f"{len(failed)} of {len(values)} trainings failed:\n  {lines}")


def betas(lowest: float, highest: float, count: int) -> list[float]:
    """``count`` values from ``lowest`` to ``highest``, evenly spaced logarithms, all different.

    Raises:
        ValueError: the range or the count makes no sense.
    """
    if not 0 < lowest <= highest < float("inf"):
        raise ValueError(
            "lowest and highest β must be positive and finite, in this order, "
            f"got {lowest} and {highest}"
        )
    if count < 1 or (count > 1) != (lowest < highest):
        raise ValueError(
            f"count={count} β from {lowest} to {highest} make no range; at least 2 are needed, "
            "or 1 where both ends are the same"
        )
    # As many digits as the checkpoint's name shows.
    values = [float(f"{beta:.6g}") for beta in np.geomspace(lowest, highest, count)]
    if len(set(values)) < count:
        raise ValueError(f"count={count} β from {lowest} to {highest} are too close to tell apart")
    return values

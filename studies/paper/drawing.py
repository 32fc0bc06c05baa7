"""What the figures of scores are put together from; everything comes from records."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from .records import Record

RADIUS, ENTROPY = "spectral_radius", "entropy"
LABELS = {RADIUS: "spectral radius ρ", ENTROPY: "entropy S of λ/Σλ [nat]"}
STEP_LABELS = {1: "δ, for a step δλη", 0: "norm δ of the step δη"}
_COLOURS = plt.get_cmap("viridis")


def page(record: Record, path: Path, title: str) -> Path:
    """The paper's Figure 5: histograms and trends of ρ and S, errors along five directions.

    Four of the VAEs stand for all in the histograms and the errors. The last row has steps of the
    same norm for every VAE.
    """
    chosen = np.unique(np.linspace(0, len(record["beta"]) - 1, 4).round().astype(int))
    few = record.select(chosen)
    labels = [f"β = {beta:.3g}" for beta in few["beta"]]
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    top, *below = np.asarray(figure.subfigures(3, 1))
    axes = top.subplots(1, 4)
    histograms(axes[:2], few, labels)
    for axis, key in zip(axes[2:], (RADIUS, ENTROPY), strict=True):
        _trend(axis, record, key)
    for part, power in zip(below, (1, 0), strict=True):
        curves(part.subplots(1, 5, sharey=True), few, "attack_error", power, labels)
    axes[0].legend(frameon=False)
    return save(figure, path, title)


def histograms(axes: Sequence[Axes], record: Record, labels: Sequence[str]) -> None:
    """ρ, on a logarithmic scale, and S, of each VAE."""
    for axis, key in zip(axes, (RADIUS, ENTROPY), strict=True):
        values = record[key]
        if key == RADIUS:
            axis.set_xscale("log")
            bins = np.geomspace(max(values.min(), 1e-6 * values.max()), values.max(), 60)
        else:
            bins = np.linspace(values.min(), values.max(), 60)
        for i, label in enumerate(labels):
            axis.hist(values[i], bins.tolist(), alpha=0.6, color=colour(i, labels), label=label)
        axis.set(xlabel=LABELS[key], ylabel="images")


def _trend(axis: Axes, record: Record, key: str) -> None:
    """Mean over the images, with their standard deviation, against β."""
    beta, mean, std = record["beta"], record[key].mean(1), record[key].std(1)
    axis.plot(beta, mean, color="black")
    axis.fill_between(beta, mean - std, mean + std, color="0.85", linewidth=0)
    axis.set(xscale="log", xlabel="β", ylabel=f"{LABELS[key]}, mean ± std")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def curves(
    axes: Sequence[Axes], record: Record, key: str, power: float, labels: Sequence[str]
) -> None:
    """A mean over images against the step size, one panel for each of the leading directions."""
    steps = record.steps(power)
    delta = record["delta"][steps]
    for rank, axis in enumerate(axes):
        for i, label in enumerate(labels):
            mean: NDArray = record[f"{key}_mean"][i, rank, steps]
            axis.plot(delta, mean, color=colour(i, labels), label=label)
        axis.set(xscale="log", xlabel=STEP_LABELS[int(power)], title=f"along direction {rank + 1}")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.grid(color="0.93")
    axes[0].set_ylabel("MSE(x, reconstruction of $x_c$)")


def colour(i: int, labels: Sequence[str]) -> tuple[float, float, float, float]:
    """One for each label, dark to light."""
    return _COLOURS(0.9 * i / max(1, len(labels) - 1))


def save(figure: Figure, path: Path, title: str) -> Path:
    """Write and close a figure."""
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def caption(record: Record) -> str:
    """What was measured, in a line."""
    facts = record.configuration
    metric = {"expected": "Eq. 4", "combined": "Eq. 11"}[facts["metric"]]
    return (
        f"{facts['dataset']}: {len(record['beta'])} VAEs of {facts['epochs']} epochs, "
        f"{len(record['sample'])} held-out images, metric of {metric}"
    )

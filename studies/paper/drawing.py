"""What the figures of scores are put together from; everything comes from records."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogFormatter, StrMethodFormatter
from numpy.typing import NDArray

from ..pictures import save_figure
from . import gp
from .records import Record
from .vaes import unusual
from .verdicts import collapsed

RADIUS, ENTROPY = "spectral_radius", "entropy"
STEP_LABELS = {1: "δ of the step δλη, whose norm is δλ", 0: "norm ‖η‖ of the step [input]"}
_ROWS = {
    1: "Steps δλη as the paper prints them",
    0: "Steps of the same norm ‖η‖ for every VAE",
}
SIGN = "of both signs the one that moves the code further, clipped to [0, 1]"
WITHOUT, WITH = "tab:blue", "tab:red"
_BINS, _QUANTILES = 90, (0.05, 0.5, 0.95)
_COLOURS = plt.get_cmap("plasma")
Colour = str | tuple[float, float, float, float]


def page(record: Record, path: Path, title: str, variance: float | None = None) -> Path:
    """The paper's Figure 5: histograms and trends of ρ and S, errors along five directions.

    Four of the VAEs stand for all in the histograms and the errors. The last row has steps of the
    same norm for every VAE.

    Args:
        record: the archive.
        path: the picture, as PNG; a PDF comes beside it.
        title: a sentence.
        variance: of the pixels, by which collapsed codes are told; None if it is not known.
    """
    one = record.of_one_seed()
    chosen = np.unique(np.linspace(0, len(one["beta"]) - 1, 4).round().astype(int))
    few = one.select(chosen)
    labels = [f"β = {beta:.3g}" for beta in few["beta"]]
    hues = [shade(i, len(labels)) for i in range(len(labels))]
    figure = plt.figure(figsize=(14, 10), layout="constrained")
    top, *below = np.asarray(figure.subfigures(3, 1))
    axes = top.subplots(1, 4)
    histograms(axes[:2], few, labels, hues)
    axes[0].legend(frameon=False, loc="upper left", ncols=2, fontsize="small")
    for axis, key in zip(axes[2:], (RADIUS, ENTROPY), strict=True):
        trend(axis, record, key, variance)
    axes[2].legend(frameon=False, fontsize="small", loc="lower left")
    for part, power in zip(below, (1, 0), strict=True):
        error_curves(part, few, power, labels, hues)
    return save(figure, path, title)


def histograms(
    axes: Sequence[Axes], record: Record, labels: Sequence[str], hues: Sequence[Colour]
) -> None:
    """ρ, on a logarithmic scale, and S, of each VAE; all images are in them."""
    for axis, key in zip(axes, (RADIUS, ENTROPY), strict=True):
        values = record[key]
        positive = values[values > 0]
        if key == RADIUS and len(positive):
            axis.set_xscale("log")
            low, high = positive.min(), positive.max()
            bins = np.geomspace(low, max(high, low * (1 + 1e-6)), _BINS)
            # Zeros have no place on such an axis: they are in the first bin, and counted aloud.
            zeros = int((values <= 0).sum())
            values = np.maximum(values, low)
            if zeros:
                axis.set_title(f"{zeros} zeros in the first bin", fontsize="small")
        else:
            bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-12), _BINS)
        for row, label, hue in zip(values, labels, hues, strict=True):
            axis.hist(row.astype(float), bins.tolist(), alpha=0.55, color=hue, label=label)
        axis.set(xlabel=label_of(record, key), ylabel=f"images, of {values.shape[1]}")
        axis.set_ylim(top=1.4 * axis.get_ylim()[1])  # room for a legend


def trend(axis: Axes, record: Record, key: str, variance: float | None) -> None:
    """Means over images against β, with the curve that trainings share and its scatter."""
    beta, values = record["beta"], record[key].astype(float)
    mean = values.mean(1)
    low, middle, high = np.quantile(values, _QUANTILES, axis=1)
    order = np.argsort(beta, kind="stable")
    axis.fill_between(
        beta[order], low[order], high[order], color="0.88", linewidth=0, label="90 % of images"
    )
    axis.plot(beta[order], middle[order], color="0.55", linewidth=0.8, label="median image")
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), variance)
    axis.plot(beta[~gone], mean[~gone], "k.", markersize=4, label="mean, one training")
    if gone.any():
        axis.plot(beta[gone], mean[gone], "kx", markersize=5, label="code collapsed")
    logarithmic = key == RADIUS
    if len(np.unique(beta[~gone])) >= gp.FEWEST and gp.has_curve(
        mean[~gone], logarithmic=logarithmic
    ):
        curve = gp.fit(beta[~gone], mean[~gone], logarithmic=logarithmic)
        axis.plot(curve.beta, curve.middle, color="tab:red", linewidth=1.2)
        if curve.knows_scatter:
            axis.fill_between(
                curve.beta, *curve.band(), color="tab:red", alpha=0.25, linewidth=0,
                label="95 % of trainings",
            )  # fmt: skip
        slope, _ = curve.slope()
        axis.set_title(f"slope {slope} per unit of log β", fontsize="small")
        first = curve.first_below(gp.THRESHOLD) if key == RADIUS else None
        if first is not None:
            label = f"ρ < {gp.THRESHOLD:g} for 95 %: β ≥ {first:.2g}"
            axis.axvline(first, color="tab:red", linewidth=1, linestyle=":", label=label)
    axis.set(xscale="log", xlabel="β", ylabel=label_of(record, key))
    if key == RADIUS:
        axis.set_yscale("log")
    plain_ticks(axis.xaxis)


def error_curves(
    figure: SubFigure, record: Record, power: int, labels: Sequence[str], hues: Sequence[Colour]
) -> None:
    """Mean errors after steps against their size, one panel for each of the leading directions."""
    steps = record.steps(power)
    delta = record["delta"][steps]
    mean: NDArray = record["attack_error_mean"][..., steps]
    axes = np.asarray(figure.subplots(1, mean.shape[1], sharey=True, squeeze=False))[0]
    for rank, axis in enumerate(axes):
        for i, (label, hue) in enumerate(zip(labels, hues, strict=True)):
            axis.plot(delta, mean[i, rank], color=hue, label=label)
        axis.set(xscale="log", title=f"eigenvector {rank + 1}")
        axis.title.set_fontsize("small")
        plain_ticks(axis.xaxis)
        axis.grid(color="0.93")
    axes[0].set_ylabel("MSE(x, g(μ($x_c$))) [input²]")
    axes[len(axes) // 2].set_xlabel(STEP_LABELS[power])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(f"{_ROWS[power]}, {SIGN}", fontsize="medium")


def label_of(record: Record, key: str) -> str:
    """A score with its unit, for an axis."""
    if key == ENTROPY:
        return "entropy S of λ/Σλ [nat]"
    unit = "output" if record.configuration["metric"] == "combined" else "latent"
    return f"spectral radius ρ [{unit}²/input²]"


def shade(i: int, count: int) -> Colour:
    """One of several colours, dark to light; none so light that it is lost on white."""
    return _COLOURS(0.75 * i / max(1, count - 1))


def plain_ticks(axis: Axis) -> None:
    """Numbers on a logarithmic axis as one writes them."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    # Those between powers of ten have labels where there is hardly one power of ten.
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def save(figure: Figure, path: Path, title: str) -> Path:
    """Title, write and close a figure, as PNG and beside it as PDF."""
    figure.suptitle(title)
    return save_figure(figure, path)


def caption(record: Record) -> str:
    """What was measured, in a line."""
    facts = record.configuration
    metric = {"expected": "Eq. 4", "combined": "Eq. 11"}[facts["metric"]]
    return (
        f"{facts['dataset']}: {len(record['beta'])} VAEs of {facts['epochs']} epochs"
        f"{unusual(facts)}, "
        f"{len(record['sample'])} held-out images, metric of {metric}"
    )

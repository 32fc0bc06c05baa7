"""The pictures of a report: how the scores are distributed, and how they hang together."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .contents import Contents

# Readable at the width of a telephone, where it is drawn at its own size.
_INCHES = (4.6, 3.1)
INK, ACCENT = "#1f2933", "#2a6f97"
STYLE: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "figure.facecolor": "white",
    "savefig.dpi": 160,
    # Text stays text, and the same numbers give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pullback",
}
# Values spread over more than this are shown on a logarithmic axis.
_WIDE = 30.0
# Values that differ by less, relatively, differ by rounding.
_SAME = 1e-5
# More points than this are counted where they lie: they would hide each other.
_MOST_MARKS = 1500
_DENSITY = LinearSegmentedColormap.from_list("density", ["#cfe0ea", ACCENT, INK])
Drawing = Callable[[Axes, Contents], None]


def draw_all(contents: Contents) -> dict[str, Figure]:
    """All pictures of a run, by a name that a file can have."""
    drawings: dict[str, Drawing] = {
        "spectral-radius": _draw_radius,
        "entropy": _draw_entropy,
        "spectrum": _draw_spectrum,
        "radius-and-entropy": _draw_scatter,
    }
    with mpl.rc_context(STYLE):
        return {name: _draw(drawing, contents) for name, drawing in drawings.items()}


def as_svg(name: str, figure: Figure) -> str:
    """A figure to stand in a page among others, each with identifiers of its own."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def save_all(figures: dict[str, Figure], folder: Path) -> None:
    """Each figure as a PNG and an SVG file."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _draw(drawing: Drawing, contents: Contents) -> Figure:
    figure = Figure(figsize=_INCHES, layout="constrained")
    drawing(figure.subplots(), contents)
    return figure


def _draw_radius(axes: Axes, contents: Contents) -> None:
    _draw_histogram(axes, contents.scores["spectral_radius"])
    axes.set(xlabel="spectral radius ρ", ylabel="images")


def _draw_entropy(axes: Axes, contents: Contents) -> None:
    _draw_histogram(axes, contents.scores["entropy"])
    axes.set(xlabel="entropy S in nats", ylabel="images")


def _draw_histogram(axes: Axes, values: NDArray) -> None:
    """Of the finite values, with their median."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        _say_nothing_there(axes)
        return
    wide = _is_wide(values)
    axes.hist(values, bins=_edges(values, wide), color=ACCENT)
    axes.grid(visible=False, axis="x")
    median = float(np.quantile(values, 0.5, method="inverted_cdf"))  # as in the summary
    axes.axvline(median, color=INK, linewidth=1, linestyle="--")
    axes.set_title(f"median {median:.4g}", fontsize=9.5, loc="right")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _scale(axes, wide)


def _scale(axes: Axes, wide: bool) -> None:
    """Few ticks, so that long numbers do not meet."""
    if wide:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _edges(values: NDArray, wide: bool) -> list[float]:
    """Of some more bins for more images; few enough to be told apart in print."""
    low, high = float(values.min()), float(values.max())
    if high - low <= _SAME * max(abs(low), abs(high)):
        margin = 0.01 * max(abs(low), abs(high)) or 0.5
        low, high = low - margin, high + margin
    count = int(np.clip(np.sqrt(len(values)), 5, 50)) + 1
    if not wide:
        return np.linspace(low, high, count).tolist()
    edges = np.geomspace(low, high, count)
    edges[[0, -1]] = low, high  # and not beside them by rounding
    return edges.tolist()


def _is_wide(values: NDArray) -> bool:
    return bool(values.min() > 0 and values.max() > _WIDE * values.min())


def _draw_spectrum(axes: Axes, contents: Contents) -> None:
    """Mean of each eigenvalue, and between which bounds most images have theirs."""
    spectra = contents.spectra.astype(np.float64)
    if not len(spectra):
        _say_nothing_there(axes)
        return
    rank = np.arange(1, spectra.shape[1] + 1)
    low, lower, upper, high = np.quantile(spectra, [0.05, 0.25, 0.75, 0.95], axis=0)
    if len(rank) > 1:
        axes.fill_between(rank, low, high, color=ACCENT, alpha=0.2, lw=0, label="5 to 95 %")
        axes.fill_between(rank, lower, upper, color=ACCENT, alpha=0.35, lw=0, label="25 to 75 %")
    else:
        axes.vlines(rank, low, high, label="5 to 95 %", alpha=0.5, lw=4, color=ACCENT)
    marker = "o" if len(rank) <= 20 else None
    axes.plot(rank, spectra.mean(axis=0), marker=marker, markersize=4, label="mean", color=ACCENT)
    if _is_wide(np.concatenate([low, high])):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="rank i", ylabel="eigenvalue λᵢ")
    axes.legend(frameon=False)


def _draw_scatter(axes: Axes, contents: Contents) -> None:
    radius, entropy = contents.scores["spectral_radius"], contents.scores["entropy"]
    there = np.isfinite(radius) & np.isfinite(entropy)
    if not there.any():
        _say_nothing_there(axes)
        return
    x, y = radius[there].astype(np.float64), entropy[there].astype(np.float64)
    wide = _is_wide(x)
    if len(x) <= _MOST_MARKS:
        axes.scatter(x, y, s=10, alpha=0.6, color=ACCENT, linewidths=0)
    else:
        counts = axes.hexbin(
            x,
            y,
            gridsize=40,
            mincnt=1,
            bins="log",
            xscale="log" if wide else "linear",
            cmap=_DENSITY,
            linewidths=0.2,
            rasterized=True,
        )
        axes.figure.colorbar(counts, ax=axes, label="images", pad=0.02)
    _scale(axes, wide)
    axes.set(xlabel="spectral radius ρ", ylabel="entropy S in nats")


def _say_nothing_there(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no image could be scored", ha="center", transform=axes.transAxes)

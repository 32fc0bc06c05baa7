"""The benchmark's table and plots."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from ..pictures import save_figure
from .comparison import EXACT, Row
from .scaling import BATCH, TOLERANCE, Memory, Parts, Point
from .stopping import Stopping
from .targets import Target

OURS, OTHERS = "tab:red", "0.35"
# Where a marker's number may go, in points from it.
OFFSETS = [(7, 6), (-7, 6), (7, -6), (-7, -6), (9, 0), (-9, 0), (0, 10), (0, -10)] + [
    (x, y) for y in (16, -16, 24, -24) for x in (0, 8, -8)
]
ERRORS = (
    ("values", "relative error of the five\nleading eigenvalues"),
    ("trace", "relative error of the trace"),
    ("entropy", "error of the entropy [nat]"),
)
AXES = (
    ("N", "pixels N"),
    ("d", "latent dimension d"),
    ("B", "batch size B"),
    ("k", "eigenpairs k"),
)

_ABOUT_METHODS = (
    f"Costs are for a batch of {BATCH}, in forward-equivalents (FE): of the median batch, and the "
    "mean, which has its share of the set-up in the first batch. The third column of costs "
    "compares means with the complete score's. Errors are the largest of any image of the first "
    f"{EXACT} batches, against float64 with J written down: relative for the five leading "
    "eigenvalues and the trace, in nats for the entropy of the spectrum normalised to trace 1. "
    "Products are with J or Jᵀ, for an image. `score` gives eigenpairs, trace and entropies, "
    "`eigsh` eigenpairs and residuals. SciPy and curvlinops work image by image; their products "
    "are by autograd unless they are ours."
)
_METHOD_COLUMNS = ["method", "measured on", "median FE", "mean FE", "× score"]
_METHOD_COLUMNS += ["eigenvalues", "trace", "entropy", "products"]
_POINT_COLUMNS = ["varied", "at", "FE measured", "FE predicted", "deviation", "products"]


def table(
    facts: dict[str, str],
    rows: Sequence[Row],
    targets: Sequence[Target],
    parts: Parts,
    rules: Stopping,
    needed: Memory,
    points: Sequence[Point],
) -> str:
    """Everything measured, as Markdown."""
    own = next(row.mean for row in rows if row.name == "score") or math.nan
    sections = [
        "# Benchmark",
        "Written by `python -m studies benchmark`.",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "## Methods",
        _ABOUT_METHODS,
        grid(_METHOD_COLUMNS, [_cells(row, own) for row in rows]),
        "## Targets",
        grid(
            ["target", "limit", "measured", ""],
            [[t.name, t.limit, t.measured or "–", _verdict(t.met)] for t in targets],
        ),
        _parts(parts),
        _rules(rules),
        "## Memory",
        _memory(needed),
        "## Cost against N, d, B and k",
        _points(points),
        grid(_POINT_COLUMNS, [_point_cells(point) for point in points]),
    ]
    return "\n\n".join(sections) + "\n"


def _verdict(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "missed"


def _cells(row: Row, own: float) -> list[str]:
    name = f"**{row.name}**" if row.ours else row.name
    ratio = None if row.mean is None else row.mean / own
    costs = [_number(cost) for cost in (row.median, row.mean, ratio)]
    errors = ["–" if e is None else f"{e:.1e}" for e in (row.values, row.trace, row.entropy)]
    products = "–" if row.products is None else f"{row.products:.0f}"
    return [name, row.sample, *costs, *errors, products]


def _point_cells(point: Point) -> list[str]:
    costs = [f"{cost:.1f}" for cost in (point.measured, point.predicted)]
    counted = f"{point.counted:.0f}"
    return [point.axis, f"{point.setting}", *costs, f"{point.deviation:+.0%}", counted]


def _number(value: float | None) -> str:
    """Three figures or so."""
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}".replace(",", " ")


def grid(head: list[str], lines: list[list[str]]) -> str:
    """A table, as Markdown."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))


def _parts(parts: Parts) -> str:
    return (
        f"Medians without set-up: a score {parts.score:.1f} FE and {parts.counted:.0f} products; "
        f"J v {parts.jvp:.2f} FE, Jᵀ u {parts.vjp:.2f} FE, a new batch's primal work "
        f"{parts.primal:.2f} FE. A score spends {parts.inside:.1f} FE in products, some of them "
        "for a part of the batch only, and primal work; the rest is the solver's own arithmetic."
    )


def _rules(rules: Stopping) -> str:
    one, two = rules.within
    return (
        f"Of {rules.images} images, {rules.waited:.0%} went on for the entropy alone: an image "
        f"takes {rules.steps:.1f} steps on average, and {rules.steps_for_pairs:.1f} for its "
        f"eigenpairs. The entropies of {one:.0%} of them lie within one standard error of the "
        f"exact ones, of {two:.0%} within two."
    )


def _memory(needed: Memory) -> str:
    text = (
        f"The largest tensor of a complete score has {needed.largest} numbers; the larger of the "
        f"forward's largest activation and B·N·(k + 4) is {needed.bound}."
    )
    beyond = needed.beyond_forward
    if beyond is None or needed.forward is None:
        return text
    shape = "×".join(map(str, needed.event))
    return (
        f"{text}\n\nOne image of {shape} has N = {math.prod(needed.event)}. With untrained "
        f"weights, {needed.outputs} outputs and a batch of {needed.batch}, a process that runs a "
        f"forward peaks at {needed.forward / 2**30:.2f} GiB of resident memory; one that runs a "
        f"forward and a complete score, at {beyond / 2**30:.2f} GiB more."
    )


def _points(points: Sequence[Point]) -> str:
    near = [abs(p.deviation) <= TOLERANCE for p in points]
    return (
        "One is varied at a time; the last column counts the products of a score. Predicted: "
        "`pullback.eigen.expected_products` times the cost of J v and Jᵀ u in turn, as measured, "
        "but those of the probes, measured as the block that they are; primal work; and for each "
        "step the solver's own arithmetic, a fixed time and one for each number in a batch, as "
        "measured at the smallest and the largest B. Set-up is left out. Where N or d differ, "
        "another encoder was trained, briefly. "
        f"{sum(near)} of {len(near)} points ({sum(near) / len(near):.0%}) are within "
        f"{TOLERANCE:.0%} of the prediction."
    )


def draw_accuracy(rows: Sequence[Row], path: Path) -> None:
    """Error against cost, one numbered marker for each method, the cheapest being 1."""
    figure, panels = plt.subplots(3, 1, figsize=(10, 12), sharex=True, layout="constrained")
    rows = sorted(rows, key=lambda row: row.mean or math.inf)
    shown = {name: [row for row in rows if row.mean and getattr(row, name)] for name, _ in ERRORS}
    for axis, (name, label) in zip(panels, ERRORS, strict=True):
        axis.set(xscale="log", yscale="log", ylabel=label)
        axis.grid(color="0.93")
        axis.set_axisbelow(True)
        _scatter(axis, shown[name], name)
    costs = [row.mean for row in rows if row.mean]
    panels[-1].set(
        xlim=(min(costs) / 2, max(costs) * 4),
        xlabel=f"cost of a batch of {BATCH}, with its share of the set-up [forward-equivalents]",
    )
    figure.suptitle(
        "What each method costs, and how far it is from float64: ours in red, the best trade-offs "
        "joined"
    )
    named = [row for row in rows if any(row in some for some in shown.values())]
    figure.legend(
        [_marker(row) for row in named],
        [f"{i}  {row.name}" for i, row in enumerate(named, 1)],
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    figure.canvas.draw()
    figure.set_layout_engine("none")  # numbers must stay where they were found to fit
    for axis, (name, _) in zip(panels, ERRORS, strict=True):
        _label(axis, [(named.index(row) + 1, row) for row in shown[name]], name)
    save_figure(figure, path)


def _marker(row: Row) -> Line2D:
    color, marker = (OURS, "o") if row.ours else (OTHERS, "s")
    return Line2D([], [], color=color, marker=marker, linestyle="none")


def _scatter(axis: Axes, rows: Sequence[Row], name: str) -> None:
    points = sorted((row.mean or 0.0, getattr(row, name), row.ours) for row in rows)
    errors = [error for _, error, _ in points]
    before = [math.inf, *np.minimum.accumulate(errors)]
    front = [(c, e) for (c, e, _), least in zip(points, before, strict=False) if e < least]
    axis.step(*zip(*front, strict=True), where="post", color="0.75", zorder=1)
    for cost, error, ours in points:
        color, marker = (OURS, "o") if ours else (OTHERS, "s")
        axis.scatter(cost, error, color=color, marker=marker, s=38, zorder=3)
    axis.set_ylim(min(errors) / 8, max(errors) * 8)


def _label(axis: Axes, rows: Sequence[tuple[int, Row]], name: str) -> None:
    """Number each marker, where that covers no other number and no marker."""
    points = [(row.mean or 0.0, getattr(row, name)) for _, row in rows]
    places = axis.transData.transform(points)
    taken = [Bbox.from_extents(*(place - 5), *(place + 5)) for place in places]
    for (number, row), point in zip(rows, points, strict=True):
        for x, y in OFFSETS:
            text = axis.annotate(
                f"{number}",
                point,
                (x, y),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
                color=OURS if row.ours else OTHERS,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=4,
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.5} if abs(y) > 10 else None,
            )
            text.update_positions(axis.figure.canvas.get_renderer())  # type: ignore[attr-defined]
            box = Text.get_window_extent(text)
            within = all(axis.bbox.contains(*corner) for corner in (box.min, box.max))
            if within and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def draw_scaling(points: Sequence[Point], path: Path) -> None:
    """A complete score's cost, measured and predicted, against each of N, d, B and k."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 7), sharey=True, layout="constrained")
    for axis, (name, label) in zip(panels.flat, AXES, strict=True):
        own = [p for p in points if p.axis == name]
        settings = [p.setting for p in own]
        axis.plot(settings, [p.predicted for p in own], "s--", color=OTHERS, label="predicted")
        axis.plot(settings, [p.measured for p in own], "o-", color=OURS, label="measured")
        for p in own:
            above = 9 if p.deviation >= 0 else -10
            axis.annotate(
                f"{p.deviation:+.0%}",
                (p.setting, p.measured),
                (0, above),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=8,
                color=OURS,
            )
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(settings, [f"{setting}" for setting in settings])
        axis.xaxis.set_minor_locator(NullLocator())
        for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatted(StrMethodFormatter("{x:g}"))
        axis.tick_params(axis="y", which="minor", labelsize=7)
        axis.margins(x=0.12, y=0.15)
    for axis in panels[:, 0]:
        axis.set_ylabel("complete score [forward-equivalents]")
    panels[0, 0].legend(frameon=False)
    figure.suptitle("What a complete score costs, measured and as the cost model predicts it")
    save_figure(figure, path)

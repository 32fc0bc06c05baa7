"""The authors' published scores, a table of one row for each β, beside ours."""

import csv
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from . import drawing
from .measurement import PUBLISHED, RANKS
from .records import Record
from .statistics import spearman

# What their radius and their entropy could be, by our columns.
_RADII = {
    "λ₁ of J_μᵀJ_μ + J_σᵀJ_σ": lambda record: record.radius,
    "√λ₁ of the same": lambda record: np.sqrt(record.radius),
    "s₁, the largest singular value of J_μ": lambda record: record["mean_radius"],
}
_ENTROPIES = {
    "λ/Σλ": lambda record: record["entropy"],
    "λ as it is": lambda record: record["entropy_none"],
    "λ/λ₁": lambda record: record["entropy_max"],
    "s/s₁ of J_μ": lambda record: record["mean_entropy"],
}
# What their errors could be: of the reconstruction of x_c to x, as the paper has it, or to x_c.
_ERRORS = {
    f"MSE({image}, g(f(x_c))), {step}{', clipped' * clipped}": (key, power, clipped)
    for image, key in (("x", "attack_error_mean"), ("x_c", "corrupted_error_mean"))
    for step, power in (("δλη", 1.0), ("δ√λη", 0.5))
    for clipped in (True, False)
}


PAPERS_ERRORS = next(iter(_ERRORS))


class Published(NamedTuple):
    """Means over 3 072 test images.

    Attributes:
        beta: ``(n,)``.
        radius, entropy: ``(n,)``.
        error: ``(n, direction, step)``, mean squared errors after the five published steps.
    """

    beta: NDArray
    radius: NDArray
    entropy: NDArray
    error: NDArray


def read(path: Path) -> Published:
    """The table, as CSV.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks a column.
    """
    if not path.exists():
        raise FileNotFoundError(f"no published scores at {path}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    errors = [
        [f"mse_dir{rank + 1}_step{delta:.4f}" for delta in PUBLISHED] for rank in range(RANKS)
    ]

    def column(name: str) -> NDArray:
        if not rows or name not in rows[0]:
            raise ValueError(f"{path} has no column {name!r}")
        return np.array([float(row[name]) for row in rows])

    error = np.array([[column(name) for name in names] for names in errors])
    return Published(
        column("beta"), column("radius_mean"), column("entropy_mean"), error.transpose(2, 0, 1)
    )


def matched(record: Record, published: Published) -> tuple[Record, Published] | None:
    """Both at the β that they share, to four digits; None if these are fewer than three."""
    near = np.isclose(record["beta"][:, None], published.beta, rtol=1e-3)
    ours, theirs = np.nonzero(near)
    if len(ours) < 3:
        return None
    return record.select(ours), Published(*(array[theirs] for array in published))


def errors(record: Record, kind: str) -> NDArray:
    """``(vae, direction, step)``, our mean errors of some kind after the published steps."""
    key, power, clipped = _ERRORS[kind]
    steps = record.steps(power, clipped)
    chosen = [int(steps[np.abs(record["delta"][steps] - d).argmin()]) for d in PUBLISHED]
    return record[key][..., chosen]


def section(record: Record, published: Published) -> list[str]:
    """Markdown: what of ours is theirs, how closely, and the errors side by side."""
    theirs = published.error[:, -1, 0]
    clean = record["reconstruction_error"].mean(1, dtype=float) / theirs
    smooth = _smooth(published.beta, theirs) / theirs
    near, nearest = ((np.abs(factor - 1) <= 0.1).sum() for factor in (clean, smooth))
    lines = [
        f"Reconstruction: our mean squared error, after {record.configuration['epochs']} epochs, "
        "lies within 10 % of theirs, after 100 epochs (taken along direction 5 at the smallest "
        f"step), at **{near} of {len(clean)}** β; ours over theirs is {clean.min():.2f} to "
        f"{clean.max():.2f}, median {np.median(clean):.2f}. Theirs scatter from one β to the next: "
        f"a smooth curve through their own values lies within 10 % of {nearest}.",
        "",
        "| ours | rank correlation with theirs | ours over theirs: median | smallest | largest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, theirs, table in (
        ("radius", published.radius, _RADII),
        ("entropy", published.entropy, _ENTROPIES),
    ):
        for name, pick in table.items():
            mean = pick(record).mean(1, dtype=float)
            lines.append(_row(f"{kind}: {name}", spearman(mean, theirs), mean / theirs))
    for kind in _ERRORS:
        ours = errors(record, kind)
        both = spearman(ours.ravel(), published.error.ravel())
        lines.append(_row(kind, both, ours / published.error))
    return [*lines, "", *_side_by_side(record, published)]


def _smooth(beta: NDArray, values: NDArray) -> NDArray:
    """A polynomial of degree 5 (or less, for few values) in logarithms, fitted to the values."""
    degree = min(5, len(beta) - 2)
    fit = np.polynomial.Polynomial.fit(np.log(beta), np.log(values), degree)
    return np.exp(fit(np.log(beta)))


def _row(name: str, correlation: float, factor: NDArray) -> str:
    low, middle, high = np.quantile(factor, (0, 0.5, 1))
    return f"| {name} | {correlation:.3f} | {middle:.3g} | {low:.3g} | {high:.3g} |"


def _side_by_side(record: Record, published: Published) -> list[str]:
    chosen = np.unique(np.linspace(0, len(published.beta) - 1, 4).round().astype(int))
    kinds = (PAPERS_ERRORS, closest_errors(record, published))
    tables = [errors(record, kind) for kind in kinds]
    lines = [
        f"Mean errors after steps along five directions: theirs / ours, {kinds[0]}, as the paper "
        f"has it / ours, {kinds[1]}, which is nearest to theirs:",
        "",
        "| direction | δ | " + " | ".join(f"β = {b:.3g}" for b in published.beta[chosen]) + " |",
        "| --- | --- | " + " | ".join("---" for _ in chosen) + " |",
    ]
    for rank in range(RANKS):
        for step, delta in enumerate(PUBLISHED):
            cells = (
                " / ".join(f"{table[i, rank, step]:.4f}" for table in (published.error, *tables))
                for i in chosen
            )
            lines.append(f"| {rank + 1} | {delta:.4g} | " + " | ".join(cells) + " |")
    return lines


def closest_errors(record: Record, published: Published) -> str:
    """The kind of errors that are nearest to theirs, in the mean of |log ratio|."""

    def distance(kind: str) -> float:
        return float(np.abs(np.log(errors(record, kind) / published.error)).mean())

    return min(_ERRORS, key=distance)


def draw(record: Record, published: Published, path: Path) -> Path:
    """Radius, entropy and errors against β, theirs and ours."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for axis, theirs, table, label in (
        (axes[0], published.radius, _RADII, "radius, in the units of the legend"),
        (axes[1], published.entropy, _ENTROPIES, "entropy [nat]"),
    ):
        for i, (name, pick) in enumerate(table.items()):
            hue = drawing.shade(i, len(table))
            # The last one is dashed: it can lie on the one before.
            line = "--" if i == len(table) - 1 else "-"
            axis.plot(record["beta"], pick(record).mean(1), line, color=hue, label=name)
        axis.plot(published.beta, theirs, "k.", label="published")
        axis.set(xscale="log", xlabel="β", ylabel=label)
        axis.legend(frameon=False, fontsize="small")
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.3 * max(published.entropy.max(), record["mean_entropy"].mean(1).max()))
    axes[1].set_title("negative values are left out", fontsize="small")
    kind = closest_errors(record, published)
    ours = errors(record, kind)
    for step, delta in enumerate(PUBLISHED):
        hue = drawing.shade(step, len(PUBLISHED))
        axes[2].plot(record["beta"], ours[:, 0, step], color=hue, label=f"δ = {delta:.3g}")
        axes[2].plot(published.beta, published.error[:, 0, step], ".", color=hue)
    axes[2].set(
        xscale="log",
        yscale="log",
        xlabel="β",
        ylabel=f"{kind.replace('x_c', '$x_c$')}\nalong direction 1 [input²]; dots: published",
    )
    for axis in axes:
        drawing.plain_ticks(axis.xaxis)
    axes[2].legend(frameon=False, fontsize="small")
    title = f"Our scores beside the published ones\n{drawing.caption(record)}"
    return drawing.save(figure, path, title)

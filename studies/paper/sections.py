"""Tables and sentences of the report, from archives."""

import numpy as np

from . import combined, drawing, mixup, optimality_report, passes
from .archives import Archives
from .passes import Costs
from .records import Record
from .seeds import NAMES, Trainings
from .vaes import unusual
from .verdicts import collapsed, collapsed_where

_LEVELS = (0.99, 0.999)
_TABLED = 10


def what_was_run(archives: Archives) -> list[str]:
    """A line for each archive."""
    records = {
        "Figure 5": archives.beta,
        "Figure 3": archives.distance,
        "Figure 6": archives.mixup,
        "Figure 10": archives.combined,
    }
    lines = [
        f"{figure}, {drawing.caption(record)}"
        for figure, record in records.items()
        if record is not None
    ]
    for form, trainings in archives.trainings.items():
        facts = trainings.configuration
        lines.append(
            f"mixup{NAMES[form]} several times: "
            f"{len(trainings.beta)} trainings of {facts['epochs']} epochs{unusual(facts)}, "
            f"{len(np.unique(trainings.seed))} of each of {len(trainings.betas)} β with mixup and "
            f"without, {facts['images']} held-out images"
        )
    if archives.mixup is not None and not archives.trainings:
        lines.append("mixup once: one training of each β with mixup, and one without")
    if archives.optimality is not None:
        lines.append(f"attacks: {optimality_report.title(archives.optimality[1])}")
    if archives.passes is not None:
        lines.append(f"attacks with budgets of passes: {passes.caption(archives.passes)}")
    variance = archives.variance
    if variance is not None:
        lines.append(f"variance of the pixels over images, mean over pixels: {variance:.4f}")
    if variance is not None and archives.beta is not None:
        error = archives.beta["reconstruction_error"].mean(1, dtype=float)
        gone = collapsed(error, variance)
        lines.append(
            f"the code of {gone.sum()} of {len(error)} VAEs has collapsed, "
            f"{collapsed_where(archives.beta['beta'], gone)}"
            if gone.any()
            else f"no code has collapsed: the largest error is {error.max():.4f}"
        )
    return lines


def passes_text(costs: Costs) -> list[str]:
    """What small steps cost, and what the eigenvector gives beside them."""
    rows = []
    for name in dict.fromkeys(costs.attack):
        cells = [costs.cheapest(name, level) for level in _LEVELS]
        spent, means = costs.of(name)
        rows.append(
            [
                name,
                *("not reached" if cell is None else str(cell[0]) for cell in cells),
                f"{means[-1]:.4f} after {spent[-1]}",
            ]
        )
    titles = ["attack", *(f"passes to {level}" for level in _LEVELS), "at its largest budget"]
    return [
        f"{passes.caption(costs)}. Displacement over the largest that any attack found, mean over "
        "images; a gradient counts as two passes:",
        "",
        *table(titles, rows),
        "",
        "Gradient ascent on ‖Jη‖ is the power method. What it finds is a step; the passes of the "
        "eigenvector also give λ₁, which is how far the code can move, a residual that says how "
        "well it is known, and other leading pairs. PGD linearises nothing, and is what to take "
        "for steps that are not small, or clipped.",
    ]


def scores_table(record: Record, variance: float | None) -> list[str]:
    """Ten of the VAEs, or all if they are fewer."""
    few = _few(record.of_one_seed())
    keys = ("spectral_radius", "entropy", "entropy_none", "entropy_max", "reconstruction_error")
    titles = ["β", "ρ", "S of λ/Σλ", "S of λ", "S of λ/λ₁", "MSE", "median ρ"]
    columns = [few[key].mean(1, dtype=float) for key in keys]
    columns.append(np.median(few.radius, axis=1))
    gone = collapsed(columns[keys.index("reconstruction_error")], variance)
    rows = [
        [_beta(beta, out=out), *(f"{value:.4g}" for value in row)]
        for beta, out, *row in zip(few["beta"], gone, *columns, strict=True)
    ]
    return table(titles, rows)


def _beta(beta: float, *, out: bool) -> str:
    """β, marked where the code has collapsed."""
    return f"{beta:.3g}{' (collapsed)' * bool(out)}"


def mixup_tables(archives: Archives) -> list[str]:
    """With mixup over without: between trainings, over images, and at the nearest error."""
    lines = []
    for form, trainings in archives.trainings.items():
        text = f"Between trainings, at the same β, mixup{NAMES[form]}"
        lines += [f"{text}:", "", *_trainings(trainings, archives.variance), ""]
    for text, found in (
        ("Over images of one training each, at the same β", archives.same_beta),
        ("The same at the nearest MSE of reconstruction", archives.matches),
    ):
        if not found:
            continue
        titles = ["β", "β without mixup", *found[0].ratios]
        gone = mixup.collapsed_betas(archives.mixup, archives.beta, archives.variance)
        rows = [
            [f"{match.beta:.3g}", _beta(match.matched_beta, out=match.matched_beta in gone)]
            + [str(interval) for interval in match.ratios.values()]
            for match in found
        ]
        lines += [f"{text}:", "", *table(titles, rows), ""]
    return lines[:-1]


def _trainings(trainings: Trainings, variance: float | None) -> list[str]:
    """Ratios with intervals between trainings, and each training's ρ."""
    names = [name for name in trainings.score if not name.startswith("error")]
    rows = []
    for beta in trainings.betas:
        ratios = [trainings.ratio(name, beta) for name in names]
        radii = [
            ", ".join(f"{value:.3g}" for value in trainings.means("ρ", beta, mixed=mixed))
            for mixed in (False, True)
        ]
        cells = ["one training" if interval is None else str(interval) for interval in ratios]
        gone = any(trainings.has_collapsed(beta, variance, mixed=mixed) for mixed in (False, True))
        rows.append([_beta(beta, out=gone), *cells, *radii])
    return table(["β", *names, "ρ of each without", "ρ of each with"], rows)


def ratios_table(record: Record, flat: Record, variance: float | None) -> list[str]:
    """Quantiles over images of the ratio of ρ, for ten of the VAEs."""
    record, flat = _few(record.of_one_seed()), _few(flat.of_one_seed())
    ratios = np.divide(*combined.radii(record, flat))
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), variance)
    rows = [
        [_beta(beta, out=out), *(f"{value:.3g}" for value in np.quantile(one, (0.05, 0.5, 0.95)))]
        for beta, out, one in zip(record["beta"], gone, ratios, strict=True)
    ]
    return table(["β", "5 % of images", "median", "95 %"], rows)


def _few(record: Record) -> Record:
    chosen = np.linspace(0, len(record["beta"]) - 1, _TABLED).round().astype(int)
    return record.select(np.unique(chosen))


def table(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]

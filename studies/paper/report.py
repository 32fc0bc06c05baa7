"""One page that says which of the paper's claims hold, from the archives alone."""

import os
import re
from pathlib import Path

import numpy as np

from pullback.archive.atomic import write_text

from .. import pictures
from . import combined, distance, drawing, mixup, optimality_report, published
from .archives import Archives, find
from .claims import STRONG, Claim, claims
from .records import Record

# What pictures show, by how the names of their files begin.
GALLERIES = {
    "gallery-beta": "Figure 2 or 4",
    "gallery-combined": "Figure 8 or 9",
    "reconstructions": "Figure 7",
}
_HERE = Path(__file__).parent.parent
_INTRODUCTION = """\
# The paper, checked

Claims of Khan & Storkey, *Adversarial robustness of VAEs through the lens of local geometry*
(AISTATS 2023), each with the number that decides it. `python -m studies report` made this page and
its figures from the archives in [{root}]({root}), which `python -m studies` says how to make; its
option `--reference` names the table of the authors' published scores where these are compared with.

Intervals are 95 % percentile bootstraps: over β for rank correlations, over images (the same ones
for both) for ratios. A trend is *confirmed* if the rank correlation is at least {strong} in size
and its interval has one sign, *refuted* if the interval has the other sign, and *conditional*
otherwise. A claim about several β or directions is confirmed or refuted if it is so for all.
"""


def report(
    archives: str = str(_HERE / "archives"),
    out: str = str(_HERE / "REPORT.md"),
    reference: str | None = None,
    reference_dataset: str = "mnist",
) -> None:
    """Write the report: each claim of the paper as confirmed, refuted or conditional, with figures.

    Args:
        archives: folder with a folder for each data set, such as the studies leave.
        out: the page; its figures go to a folder ``figures`` beside it.
        reference: the authors' published scores as CSV, to be compared with.
        reference_dataset: the folder that is compared with them.
    """
    page = Path(out)
    if page.suffix != ".md" or page.is_dir():
        raise ValueError(f"the report is a file that ends in .md, got {out!r}")
    found = find(Path(archives))
    scores = published.read(Path(reference)) if reference else None
    figures = page.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    decided = [claims(one) for one in found]
    root = Path(os.path.relpath(archives, page.parent)).as_posix()
    lines = [_INTRODUCTION.format(root=root, strong=STRONG)]
    lines += _overview([one.folder.name for one in found], decided)
    for one, its_claims in zip(found, decided, strict=True):
        lines += _section(one, its_claims, figures)
        if scores is not None and one.folder.name == reference_dataset and one.beta is not None:
            lines += _comparison(one, scores, figures)
    write_text(page, "\n".join(lines).rstrip() + "\n")
    print(f"report     {page}")


def _overview(names: list[str], decided: list[list[Claim]]) -> list[str]:
    """A row for each claim, a column for each data set."""
    verdicts = [{claim.text: claim.verdict for claim in some} for some in decided]
    texts = dict.fromkeys(text for some in verdicts for text in some)
    rows = [[text, *(some.get(text, "") for some in verdicts)] for text in texts]
    return [*_table(["claim", *names], rows), ""]


def _section(archives: Archives, decided: list[Claim], figures: Path) -> list[str]:
    lines = [f"## {archives.folder.name}", ""]
    lines += [f"- {line}" for line in _what_was_run(archives)]
    lines += ["", "### Claims", ""]
    lines += [f"- {claim.text}: **{claim.verdict}**. {claim.evidence}." for claim in decided]
    lines += [""]
    if archives.beta is not None:
        lines += ["### Means over images", "", *_scores(archives.beta), ""]
    if archives.matches:
        lines += ["### Mixup", "", *_mixup(archives), ""]
    if archives.combined is not None and archives.beta is not None:
        lines += ["### Combined over flat ρ", "", *_ratios(archives.combined, archives.beta), ""]
    drawn = _draw(archives, figures)
    lines += ["### Figures", ""]
    for text in sorted(drawn, key=_number):
        lines += [f"{text}:", "", f"![{text}](figures/{drawn[text].name})", ""]
    return lines


def _what_was_run(archives: Archives) -> list[str]:
    records = [archives.beta, archives.distance, archives.mixup, archives.combined]
    lines = [drawing.caption(record) for record in records if record is not None]
    if archives.optimality is not None:
        lines.append(f"attacks: {optimality_report.title(archives.optimality[1])}")
    return lines


def _scores(record: Record) -> list[str]:
    """Ten of the VAEs, or all if they are fewer."""
    chosen = np.unique(np.linspace(0, len(record["beta"]) - 1, 10).round().astype(int))
    keys = ("spectral_radius", "entropy", "entropy_none", "entropy_max", "reconstruction_error")
    titles = ["β", "ρ", "S of λ/Σλ", "S of λ", "S of λ/λ₁", "MSE"]
    few = record.select(chosen)
    columns = [few["beta"], *(few[key].mean(1, dtype=float) for key in keys)]
    rows = [[f"{value:.4g}" for value in row] for row in zip(*columns, strict=True)]
    return _table(titles, rows)


def _mixup(archives: Archives) -> list[str]:
    """With mixup over without, at the same β and at the nearest error of reconstruction."""
    lines = []
    for text, found in (
        ("at the same β", archives.same_beta),
        ("at the nearest MSE of reconstruction", archives.matches),
    ):
        titles = ["weight", "β", "β without mixup", *found[0].ratios]
        rows = [
            [f"{match.mixup:g}", f"{match.beta:.3g}", f"{match.matched_beta:.3g}"]
            + [str(interval) for interval in match.ratios.values()]
            for match in found
        ]
        lines += [f"Ratios of means over images, {text}:", "", *_table(titles, rows), ""]
    return lines[:-1]


def _ratios(record: Record, flat: Record) -> list[str]:
    ratios = np.divide(*combined.radii(record, flat))
    rows = [
        [f"{beta:.4g}", *(f"{value:.3g}" for value in np.quantile(one, (0.05, 0.5, 0.95)))]
        for beta, one in zip(record["beta"], ratios, strict=True)
    ]
    return _table(["β", "5 % of images", "median", "95 %"], rows)


def _draw(archives: Archives, figures: Path) -> dict[str, Path]:
    """Figures by what they show."""
    name, drawn = archives.folder.name, {}

    def path(stem: str) -> Path:
        return figures / f"{name}-{stem}.png"

    if archives.beta is not None:
        caption = drawing.caption(archives.beta)
        drawn["Figure 5"] = drawing.page(archives.beta, path("beta"), caption)
    if archives.distance is not None:
        drawn["Figure 3"] = distance.draw(archives.distance, path("distance"))
    if archives.mixup is not None and archives.beta is not None:
        drawn["Figure 6"] = mixup.draw(archives.mixup, archives.beta, path("mixup"))
    if archives.combined is not None and archives.beta is not None:
        caption = drawing.caption(archives.combined)
        drawn["Figure 10"] = drawing.page(archives.combined, path("combined"), caption)
        ratios = combined.draw_ratio(archives.combined, archives.beta, path("combined-ratio"))
        drawn["Figure 10, ρ over that of the flat metric"] = ratios
    if archives.optimality is not None:
        drawn["Theorem 3.2"] = optimality_report.draw(*archives.optimality, path("optimality"))
    return drawn | _pictures(archives.folder, figures)


def _pictures(folder: Path, figures: Path) -> dict[str, Path]:
    """Galleries; if their archives, which hold images, are not kept, the figures drawn before."""
    drawn = {}
    for prefix, text in GALLERIES.items():
        for path in folder.glob(f"{prefix}*.h5"):
            figure = figures / f"{folder.name}-{path.stem}.png"
            pictures.read(path).save(figure, f"{folder.name}: {path.stem}")
        for figure in figures.glob(f"{folder.name}-{prefix}*.png"):
            drawn[f"{text}, {figure.stem.removeprefix(f'{folder.name}-')}"] = figure
    return drawn


def _number(text: str) -> tuple[bool, list[int]]:
    """For sorting: the paper's figures by their numbers, then what is no figure."""
    return not text.startswith("Figure"), [int(number) for number in re.findall(r"\d+", text)]


def _comparison(archives: Archives, scores: published.Published, figures: Path) -> list[str]:
    found = archives.beta and published.matched(archives.beta, scores)
    if not found:
        return ["Fewer than three β are those of the published scores; nothing to compare.", ""]
    path = published.draw(*found, figures / f"{archives.folder.name}-published.png")
    title = "### Beside the authors' published scores"
    lines = [title, "", *published.section(*found), ""]
    return [*lines, f"![ours and theirs](figures/{path.name})", ""]


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]

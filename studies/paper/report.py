"""One page that says which of the paper's claims hold, from the archives alone."""

import os
import re
from pathlib import Path

from pullback.archive.atomic import write_text

from .. import pictures
from . import beta, combined, distance, mixup, optimality_report, passes, published, seeds
from .archives import SEEDS, Archives, find
from .claim import Claim
from .claims import claims
from .report_text import INTRODUCTION, LIMITS
from .sections import mixup_tables, passes_text, ratios_table, scores_table, table, what_was_run

# What pictures show, by how the names of their files begin.
GALLERIES = {
    "gallery-beta": "Figures 2 and 4",
    "gallery-combined": "Figures 8 and 9",
    "reconstructions": "Figure 7",
}
_HERE = Path(__file__).parent.parent


def report(
    archives: str = str(_HERE / "archives"),
    out: str = str(_HERE / "REPORT.md"),
    reference: str | None = None,
    reference_dataset: str = "mnist",
) -> None:
    """Write the report: what became of each claim of the paper, with the numbers and figures.

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
    lines = [INTRODUCTION.format(root=root)]
    lines += _overview([one.folder.name for one in found], decided)
    lines += [LIMITS]
    for one, its_claims in zip(found, decided, strict=True):
        lines += _section(one, its_claims, figures)
        if scores is not None and one.folder.name == reference_dataset and one.beta is not None:
            lines += _comparison(one, scores, figures)
    write_text(page, "\n".join(lines).rstrip() + "\n")
    print(f"report     {page}")


def _overview(names: list[str], decided: list[list[Claim]]) -> list[str]:
    """A row for each claim, a column for each data set."""
    by_text = [{claim.text: claim for claim in some} for some in decided]
    first = {claim.text: claim for some in reversed(decided) for claim in some}
    texts = dict.fromkeys(text for some in sorted(by_text, key=len, reverse=True) for text in some)
    rows = [
        [text, first[text].source]
        + [str(some[text].verdict) if text in some else "" for some in by_text]
        for text in texts
    ]
    return [*table(["claim", "where", *names], rows), ""]


def _section(archives: Archives, decided: list[Claim], figures: Path) -> list[str]:
    lines = [f"## {archives.folder.name}", ""]
    lines += [f"- {line}" for line in what_was_run(archives)]
    lines += ["", "### Claims", ""]
    lines += [
        f"- {claim.text} ({claim.source}): **{claim.verdict.word}**"
        + (f": {claim.verdict.which}" if claim.verdict.which else "")
        + f". {_sentence(claim.evidence)}"
        for claim in decided
    ]
    lines += [""]
    if archives.passes is not None:
        lines += ["### What the eigenvector costs", "", *passes_text(archives.passes), ""]
    if archives.beta is not None:
        lines += ["### Means over images", "", *scores_table(archives.beta, archives.variance), ""]
    if archives.trainings or archives.matches:
        lines += ["### Mixup", "", *mixup_tables(archives), ""]
    if archives.combined is not None and archives.beta is not None:
        some = ratios_table(archives.combined, archives.beta, archives.variance)
        lines += ["### Combined over flat ρ", "", *some, ""]
    drawn = _draw(archives, figures)
    lines += ["### Figures", ""]
    for text in sorted(drawn, key=_number):
        path = drawn[text]
        vector = f"[PDF](figures/{path.with_suffix('.pdf').name})"
        lines += [f"{text} ({vector}):", "", f"![{text}](figures/{path.name})", ""]
    return lines


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a symbol, and a full stop."""
    return f"{text[0].upper() if text[0].isascii() else text[0]}{text[1:]}."


def _draw(archives: Archives, figures: Path) -> dict[str, Path]:
    """Figures by what they show."""
    name, drawn, variance = archives.folder.name, {}, archives.variance

    def path(stem: str) -> Path:
        return figures / f"{name}-{stem}.png"

    if archives.beta is not None:
        drawn["Figure 5"] = beta.draw(archives.beta, path("beta"), variance)
    if archives.distance is not None:
        drawn["Figure 3"] = distance.draw(archives.distance, path("distance"))
    if archives.mixup is not None and archives.beta is not None:
        drawn["Figure 6"] = mixup.draw(archives.mixup, archives.beta, path("mixup"))
    for form, trainings in archives.trainings.items():
        text = "Figure 6, several trainings" + ", the authors' code" * (form == "code")
        drawn[text] = seeds.draw(trainings, path(SEEDS[form]), form)
    if archives.combined is not None and archives.beta is not None:
        drawn["Figure 10"] = combined.draw(archives.combined, path("combined"), variance)
        ratios = combined.draw_ratio(archives.combined, archives.beta, path("combined-ratio"))
        drawn["Figure 10, ρ over that of the flat metric"] = ratios
    if archives.optimality is not None:
        drawn["Theorem 3.2"] = optimality_report.draw(*archives.optimality, path("optimality"))
    if archives.passes is not None:
        drawn["Theorem 3.2, what it costs"] = passes.draw(archives.passes, path("passes"))
    return drawn | _pictures(archives.folder, figures)


def _pictures(folder: Path, figures: Path) -> dict[str, Path]:
    """Galleries and reconstructions."""
    drawn = {}
    for prefix, text in GALLERIES.items():
        for path in sorted(folder.glob(f"{prefix}*.h5")):
            figure = figures / f"{folder.name}-{path.stem}.png"
            shown = pictures.read(path)
            drawn[f"{text}: {shown.title.splitlines()[0]}"] = shown.save(figure)
    return drawn


def _number(text: str) -> tuple[bool, list[int]]:
    """For sorting: the paper's figures by their numbers, then what is no figure."""
    return not text.startswith("Figure"), [int(number) for number in re.findall(r"\d+", text)]


def _comparison(archives: Archives, scores: published.Published, figures: Path) -> list[str]:
    found = archives.beta and published.matched(archives.beta.of_one_seed(), scores)
    if not found:
        return ["Fewer than three β are those of the published scores; nothing to compare.", ""]
    path = published.draw(*found, figures / f"{archives.folder.name}-published.png")
    title = "### Beside the authors' published scores"
    lines = [title, "", *published.section(*found), ""]
    return [*lines, f"![ours and theirs](figures/{path.name})", ""]

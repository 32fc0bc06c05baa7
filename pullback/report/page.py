"""The page of a run: what was scored and with what, pictures, extremes and a table of images."""

import base64
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from ..archive.atomic import write_text
from ..archive.configuration import find_differences
from ..archive.run import read, scan
from ..archive.summary import plain_text
from ..arguments import require_integer
from ..jobs import Images
from . import figures
from .contents import Contents
from .thumbnails import direction_uri, image_uri, is_picture

_HERE = Path(__file__).parent
_MOST_ROWS = 3000
_MOST_FAILURES = 20
# What tells nothing about the pixels: what the data are called, and when they were copied.
_HARMLESS = {"name", "modified"}


def write_report(
    run: str | Path,
    images: Images | None = None,
    *,
    extremes: int = 6,
    save_figures: bool = False,
    command: str | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run, and return its path.

    The page needs no network, no other file and, but for sorting and searching, no JavaScript. It
    shows what is scored so far; first directions of images where the run holds directions.

    Args:
        run: the folder.
        images: the data set of the run, to show its most and least robust images; see
            :func:`pullback.jobs.open_images`.
        extremes: how many of each are shown.
        save_figures: whether the folder ``figures`` gets the pictures as PNG and SVG, too.
        command: what makes the page again, to be said in it; ``pullback report RUN`` by default.

    Raises:
        FileNotFoundError: ``run`` is no run.
        ValueError: nothing is scored yet, a file is damaged, or the images are others.
    """
    run = Path(run)
    require_integer("extremes", extremes, 0)
    contents = Contents.of(run)
    if images is not None:
        _require_same(images, contents.manifest)
    drawn = figures.draw_all(contents)
    if save_figures:
        figures.save_all(drawn, run / "figures")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    order = contents.order()
    rows = _choose_rows(contents, order)
    extremes = min(extremes, len(order) // 2)
    shown = [order[:extremes], order[len(order) - extremes :][::-1]]
    texts = _read_texts(run, contents, np.concatenate([rows, *shown]))
    page = _template().render(
        contents=contents,
        manifest=contents.manifest,
        encoder=str(contents.manifest["encoder"].get("factory", "an encoder")),
        makers=[_describe(maker) for maker in contents.origin.makers],
        settings=list(_flatten("", contents.manifest)),
        summary=_summarise(contents),
        pictures=[(name, figures.as_svg(name, figure)) for name, figure in drawn.items()],
        galleries=[list(_gallery(run, contents, some, texts, images)) for some in shown],
        has_images=images is not None and is_picture(images.event_shape),
        has_directions=_has_directions(contents.manifest),
        rows=[_row(contents, place, texts) for place in rows],
        failures=list(contents.origin.failures.items())[:_MOST_FAILURES],
        command=command or shlex.join(["pullback", "report", str(run)]),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        # The page runs this script and no other, whatever else might get into it.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Escapes of terminals and reversals of the direction of writing are shown, not obeyed.
        finalize=lambda value: plain_text(value) if type(value) is str else value,
    )
    environment.filters["figures"] = lambda value: f"{value:#.4g}".rstrip(".")
    return environment.get_template("page.html")


def _require_same(images: Images, manifest: dict[str, Any]) -> None:
    """Refuse images that are not those of the run, as far as is known without reading them."""
    given = {"count": images.count, "event_shape": list(images.event_shape), **images.facts}
    held = {name: value for name, value in manifest["data"].items() if name not in _HARMLESS}
    given = {name: value for name, value in given.items() if name not in _HARMLESS}
    differences = find_differences(held, given)
    if differences:
        raise ValueError(
            f"{images.path} holds other images than the run: {'; '.join(differences.values())}"
        )


def _flatten(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """A nested dictionary line by line, without what columns there are."""
    if not isinstance(value, dict):
        yield place, str(value)
        return
    for name, inside in value.items():
        if name not in ("columns", "sizes", "format"):
            yield from _flatten(f"{place}.{name}" if place else name, inside)


def _describe(maker: dict[str, Any]) -> tuple[str, str]:
    """The command of a maker, and a line about it; of what a file says nothing is sure."""
    facts = [
        f"{maker[name]} {name}" if name in ("shards", "threads") else str(maker[name])
        for name in ("device", "threads", "shards", "first", "last")
        if name in maker
    ]
    versions = maker.get("versions")
    if isinstance(versions, dict):
        facts += [f"{name} {version}" for name, version in versions.items()]
    return str(maker.get("command", "unknown")), ", ".join(facts)


def _summarise(contents: Contents) -> list[tuple[str, str, str]]:
    """The numbers to see first: each with a label and a remark."""
    scores, k = contents.scores, contents.manifest["score"]["k"]
    tol = contents.manifest["score"].get("tol")
    total, scored = contents.manifest["data"]["count"], scores["failed"] == 0
    whole = int((scores["converged"][scored] == k).sum())
    count, failed = int(scored.sum()), int((~scored).sum())
    share = 100 * whole / max(1, count)
    if whole < count:  # 99.999 % shall not be read as all
        share = min(share, 99.99)
    return [
        ("images", str(count), f"of {total}" + (f", {failed} failed" if failed else "")),
        ("converged", f"{share:.4g} %", f"all {k} eigenpairs" + (f" within {tol}" if tol else "")),
        ("spectral radius ρ", *_spread(scores["spectral_radius"])),
        ("entropy S", *_spread(scores["entropy"], " nat")),
    ]


def _spread(values: NDArray, unit: str = "") -> tuple[str, str]:
    values = values[~np.isnan(values)]
    if not len(values):
        return "none", "no image could be scored"
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf")
    return f"{median:.4g}{unit}", f"median; 5 to 95 %: {low:.4g} to {high:.4g}"


def _choose_rows(contents: Contents, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Places of all images, in their order, or of some by ρ: both ends and evenly between."""
    if contents.count <= _MOST_ROWS:
        return np.arange(contents.count)
    third = _MOST_ROWS // 3
    if len(order) <= _MOST_ROWS:
        return np.sort(order)
    middle = np.linspace(third, len(order) - third - 1, third).round().astype(np.intp)
    ranks = [np.arange(third), middle, np.arange(len(order) - third, len(order))]
    return np.sort(order[np.concatenate(ranks)])


def _read_texts(run: Path, contents: Contents, places: NDArray[np.intp]) -> dict[int, str]:
    """File names of the images at some places, where the run has them."""
    if "file" not in contents.manifest["columns"]:
        return {}
    wanted, first, texts = np.unique(places), 0, {}
    for table in scan(run, ["file"]):
        last = first + len(table["file"])
        for place in wanted[(wanted >= first) & (wanted < last)]:
            texts[int(place)] = table["file"][place - first].decode("utf-8", "replace")
        first = last
    return texts


def _row(contents: Contents, place: int, texts: dict[int, str]) -> dict[str, Any]:
    """One image as the template names its scores."""
    row = {name: column[place].item() for name, column in contents.scores.items()}
    return row | {"file": texts.get(int(place))}


def _has_directions(manifest: dict[str, Any]) -> bool:
    return "directions" in manifest["columns"] and is_picture(manifest["data"]["event_shape"])


def _gallery(
    run: Path,
    contents: Contents,
    places: Sequence[int] | NDArray[np.intp],
    texts: dict[int, str],
    images: Images | None,
) -> Iterator[dict[str, Any]]:
    """Some images, each with what can be shown of it."""
    shape = tuple(contents.manifest["data"]["event_shape"])
    for place in places:
        card = _row(contents, int(place), texts) | {"image": None, "direction": None}
        index = card["sample"]
        if images is not None and is_picture(shape):
            card["image"] = image_uri(images.read_finite(index, index + 1)[0])
        if _has_directions(contents.manifest):
            found = read(run, ["directions"], slice(index, index + 1))["directions"]
            card["direction"] = direction_uri(found[0, 0].reshape(shape))
        yield card

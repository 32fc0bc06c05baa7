"""The page of a run: what was scored and with what, pictures, extremes and a table of images."""

import base64
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from ..archive.atomic import write_text
from ..archive.run import scan
from ..archive.summary import plain_text
from ..arguments import require_integer
from ..jobs import Images
from ..metrics import Encoder
from . import figures
from .contents import Contents
from .gallery import Gallery
from .thumbnails import as_uri

_HERE = Path(__file__).parent
_MOST_ROWS = 3000
_MOST_FAILURES = 20


def write_report(
    run: str | Path,
    images: Images | None = None,
    encoder: Encoder | None = None,
    decoder: Encoder | None = None,
    *,
    out: str | Path | None = None,
    extremes: int = 6,
    eps: float | None = None,
    save_figures: bool = False,
    command: str | None = None,
) -> Path:
    """Write ``report.html`` of a run, and return its path.

    The page needs no network, no other file and, but for sorting and searching, no JavaScript. It
    shows what is scored so far; the most and the least robust images, with what is given of the
    three. First directions are shown where the run holds them, or the encoder is given.

    Args:
        run: the folder.
        images: the data set of the run; see :func:`pullback.jobs.open_images`.
        encoder: the encoder of the run, to show images after a step along their first direction.
        decoder: likewise, or a callable returning a tensor: what it makes of the codes before and
            after the step is shown as well.
        out: the folder for it, made if absent; that of the run by default.
        extremes: how many of the most and of the least robust images are shown.
        eps: norm of the step; by default √N/20 for N values in an image. Images within [0, 1] are
            clipped to it.
        save_figures: whether the folder ``figures`` gets the pictures, too: the diagrams as PNG and
            SVG, and what is shown of images.
        command: what makes the page again, to be said in it; ``pullback report RUN`` by default.

    Raises:
        FileNotFoundError: ``run`` is no run.
        TypeError, ValueError: nothing is scored yet, a file is damaged, images or encoder are
            others, or one of them is missing or cannot be used.
    """
    run = Path(run)
    folder = run if out is None else Path(out)
    require_integer("extremes", extremes, 0)
    contents = Contents.of(run)
    gallery = Gallery.of(run, contents.manifest, images, encoder, decoder, eps)
    drawn = figures.draw_all(contents)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    order = contents.order()
    rows = _choose_rows(contents, order)
    extremes = min(extremes, len(order) // 2)
    shown = [order[:extremes], order[len(order) - extremes :][::-1]]
    gallery.check(contents.scores["sample"][np.concatenate(shown)])
    texts = _read_texts(run, contents, np.concatenate([rows, *shown]))
    cards = [_make_cards(gallery, [_row(contents, p, texts) for p in some]) for some in shown]
    folder.mkdir(parents=True, exist_ok=True)
    if save_figures:
        figures.save_all(drawn, folder / "figures")
        _save_cards([*cards[0], *cards[1]], folder / "figures")
    page = _template().render(
        contents=contents,
        manifest=contents.manifest,
        encoder=str(contents.manifest["encoder"].get("factory", "an encoder")),
        makers=[_describe(maker) for maker in contents.origin.makers],
        settings=list(_flatten("", contents.manifest)),
        summary=_summarise(contents),
        pictures=[(name, figures.as_svg(name, figure)) for name, figure in drawn.items()],
        cards=cards,
        gallery=gallery,
        rows=[_row(contents, place, texts) for place in rows],
        failures=list(contents.origin.failures.items())[:_MOST_FAILURES],
        command=command or shlex.join(["pullback", "report", str(run)]),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        # The page runs this script and no other, whatever else might get into it.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = folder / "report.html"
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
    environment.filters["uri"] = as_uri
    environment.filters["figures"] = lambda value: f"{value:#.4g}".rstrip(".")
    return environment.get_template("page.html")


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
    facts = [str(maker["device"])] if "device" in maker else []
    facts += [
        f"{maker[name]} {name if maker[name] != 1 else name[:-1]}"
        for name in ("threads", "shards")
        if name in maker
    ]
    dates = dict.fromkeys(str(maker[name]) for name in ("first", "last") if name in maker)
    facts += [" to ".join(dates)] if dates else []
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


def _make_cards(gallery: Gallery, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some images, each with its scores and what can be shown of it."""
    shown = gallery.show([row["sample"] for row in rows])
    return [row | more for row, more in zip(rows, shown, strict=True)]


def _save_cards(cards: list[dict[str, Any]], folder: Path) -> None:
    for card in cards:
        for name, png in card["pictures"].items():
            stem = f"image-{card['sample']}" + ("" if name == "image" else f"-{name}")
            (folder / f"{stem}.png").write_bytes(png)

"""Figures 6 and 7: training with latent mixup beside training without."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from pullback.arguments import require_integer

from .. import named_arrays, pictures
from . import drawing, records
from .beta import plain, spaced
from .drawing import ENTROPY, RADIUS
from .measurement import effort
from .records import Record
from .scores import by_name
from .seeds import NAMES as FORMS
from .seeds import some
from .statistics import Interval, ratio
from .tables import columns, scores_table
from .vaes import Subject, Vaes, unusual
from .verdicts import collapsed

SHOWN = 10
PAPERS_BETA = 1.0  # of Figures 6 and 7, which is none of the 50
NAMES = ("without mixup", "with mixup")


def mixup(
    out: str,
    count: int = 50,
    mixed: int = 4,
    weight: float = 1.0,
    mixup_form: str = "text",
    seeds: int = 1,
    images: int = 3072,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figures 6 and 7: scores, errors after attacks and reconstructions with and without mixup.

    VAEs with mixup are compared with those of ``beta`` in the same folder, at the same β and at
    the same error of reconstruction. The paper's β = 1 is trained with mixup and without.

    Args:
        out: folder for mixup.h5, mixup.png, reconstructions.png, and what ``beta`` leaves.
        count: how many β without mixup, evenly spaced on a logarithmic scale.
        mixed: how many of them with mixup.
        weight: of the mixup penalty.
        mixup_form: text, as the paper's text has the penalty, or code, as the authors' code has it.
        seeds: how many trainings of each β of ``beta``.
        images: how many held-out images are measured.
        quick: at most four β, two with mixup; fewer images and steps.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    path, vaes = Path(out, "mixup.h5"), Vaes(out, **options)
    require_integer("mixed", mixed, 1)
    if redraw:
        without, record = records.read(path.with_name("beta.h5")), records.read(path)
    else:
        without = plain(vaes, count, images, seeds, quick=quick)
        values = some(spaced(count, quick=quick), min(mixed, 2) if quick else mixed)
        pair = [Subject(PAPERS_BETA), Subject(PAPERS_BETA, weight, mixup_form)]
        mixtures = [Subject(beta, weight, mixup_form) for beta in values]
        subjects = vaes.repeated([*mixtures, *pair], 1)
        record = records.collect(path, vaes, subjects, effort(images, quick=quick))
        _make_reconstructions(vaes, pair)
    print(f"{scores_table(record)}\n\n{matches_table(matches(record, without))}")
    print(f"\nfigure     {draw(record, without, path.with_suffix('.png'))}")
    shown = pictures.read(path.with_name("reconstructions.h5"))
    print(f"figure     {shown.save(path.with_name('reconstructions.png'))}")


class Match(NamedTuple):
    """A VAE with mixup beside one without.

    Attributes:
        beta, mixup: of the VAE with mixup.
        matched_beta: of the other.
        ratios: with mixup over without, by the name of the score: ratios of means over images.
    """

    beta: float
    mixup: float
    matched_beta: float
    ratios: dict[str, Interval]


def matches(record: Record, without: Record) -> list[Match]:
    """Every VAE with mixup beside the one without whose reconstruction error is nearest."""
    mixed, others = split(record, without)
    errors = [one["reconstruction_error"].mean(1) for one in (mixed, others)]
    apart = np.abs(np.subtract.outer(*errors))
    nearest = np.where(np.isnan(apart), np.inf, apart).argmin(1)  # NaN is near to nothing
    return [_match(mixed, others, i, int(j)) for i, j in enumerate(nearest)]


def same_beta(record: Record, without: Record) -> list[Match]:
    """Every VAE with mixup beside the one without of the nearest β."""
    mixed, others = split(record, without)
    nearest = np.abs(np.subtract.outer(np.log(mixed["beta"]), np.log(others["beta"]))).argmin(1)
    return [_match(mixed, others, i, int(j)) for i, j in enumerate(nearest)]


def split(record: Record, without: Record) -> tuple[Record, Record]:
    """VAEs with mixup, by β, and all those without: of both records, one training of each β."""
    mixed = record.select(record["mixup"] > 0)
    plain_too = record.select(record["mixup"] == 0)
    others = without.of_one_seed()
    if len(plain_too["beta"]):
        others = others.join(plain_too)
    mixed, others = (one.select(np.argsort(one["beta"])) for one in (mixed, others))
    return mixed, others


def collapsed_betas(
    record: Record | None, without: Record | None, variance: float | None, *, mixed: bool = False
) -> set[float]:
    """β of the VAEs without mixup, or with, whose code has collapsed."""
    if record is None or without is None:
        return set()
    one = split(record, without)[0 if mixed else 1]
    gone = collapsed(one["reconstruction_error"].mean(1, dtype=float), variance)
    return {float(beta) for beta in one["beta"][gone]}


def _match(record: Record, without: Record, i: int, j: int) -> Match:
    ours, theirs = by_name(record.select([i]).arrays), by_name(without.select([j]).arrays)
    ratios = {name: ratio(ours[name][0], theirs[name][0]) for name in ours}
    beta, weight = float(record["beta"][i]), float(record["mixup"][i])
    return Match(beta, weight, float(without["beta"][j]), ratios)


def matches_table(found: list[Match]) -> str:
    """Ratios with mixup to without, with 95 % intervals."""
    names = list(found[0].ratios)
    rows = [
        [f"{one.beta:.3g}", f"{one.matched_beta:.3g}", *(str(one.ratios[name]) for name in names)]
        for one in found
    ]
    title = "with mixup / without, at the nearest MSE of reconstruction; 95 % intervals over images"
    return f"{title}\n{columns(['β', 'β without', *names], rows)}"


def draw(record: Record, without: Record, path: Path) -> Path:
    """One β in histograms and errors, with and without mixup; all β against reconstruction."""
    mixed, others = split(record, without)
    shown = int(np.abs(np.log(mixed["beta"] / PAPERS_BETA)).argmin())
    value = mixed["beta"][shown]
    same = int(np.abs(np.log(others["beta"] / value)).argmin())
    pair = others.select([same]).join(mixed.select([shown]))
    figure = plt.figure(figsize=(14, 10), layout="constrained")
    top, *below = np.asarray(figure.subfigures(3, 1))
    axes = top.subplots(1, 4)
    hues = (drawing.WITHOUT, drawing.WITH)
    drawing.histograms(axes[:2], pair, NAMES, hues)
    axes[0].legend(frameon=False, loc="upper left", fontsize="small")
    for axis, key in zip(axes[2:], (RADIUS, ENTROPY), strict=True):
        _against_reconstruction(axis, key, others, mixed)
    axes[2].legend(frameon=False)
    for part, power in zip(below, (1, 0), strict=True):
        drawing.error_curves(part, pair, power, NAMES, hues)
    title = (
        f"With mixup{FORMS[record.mixup_form]} (weight {record['mixup'].max():g}) and without; "
        f"β = {value:.3g} where one is shown\n{drawing.caption(record)}"
    )
    return drawing.save(figure, path, title)


def _against_reconstruction(axis: Axes, key: str, without: Record, record: Record) -> None:
    """Means over images; each mark is a VAE."""
    for one, style, hue, label in (
        (without, "o-", drawing.WITHOUT, NAMES[0]),
        (record, "^", drawing.WITH, NAMES[1]),
    ):
        error, score = (one[name].mean(1, dtype=float) for name in ("reconstruction_error", key))
        axis.plot(error, score, style, color=hue, label=label, markersize=4, linewidth=0.8)
    # A β beside its mark, in front of the other marks.
    paper = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for error, score, beta in zip(
        record["reconstruction_error"].mean(1), record[key].mean(1), record["beta"], strict=True
    ):
        axis.annotate(
            f"{beta:.3g}", (error, score), (5, 4), textcoords="offset points", size=7, bbox=paper
        )
    axis.set(
        xlabel="MSE of reconstruction [input²]",
        ylabel=f"{drawing.label_of(record, key)},\nmean over images",
    )
    axis.margins(0.1)
    if key == RADIUS:
        axis.set_yscale("log")


def _make_reconstructions(vaes: Vaes, pair: list[Subject]) -> None:
    """Figure 7, as pictures in reconstructions.h5."""
    path = vaes.out / "reconstructions.h5"
    listed = [subject.listed() for subject in pair]
    title = f"Reconstructions without and with mixup{FORMS[pair[1].form]}: {vaes.dataset}, "
    title += f"β = {pair[0].beta:g}{unusual(vaes.configuration)}"
    configuration = {**vaes.configuration, "vaes": listed, "shown": SHOWN, "title": title}
    if named_arrays.holds(path, configuration):
        return
    x = vaes.held_out(SHOWN)
    rows = [("original", x)]
    for label, subject in zip(NAMES, pair, strict=True):
        vae = vaes.get(subject)
        rows.append((label, vae.decode(vae.encode(x)[0])))
    pictures.write(path, pictures.stack(rows, title), configuration)

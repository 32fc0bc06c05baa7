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
from .drawing import ENTROPY, LABELS, RADIUS
from .measurement import effort
from .records import Record
from .statistics import Interval, ratio
from .tables import scores_table
from .vaes import Vaes

SHOWN = 10


def mixup(
    out: str,
    count: int = 50,
    mixed: int = 5,
    weight: float = 1.0,
    images: int = 3072,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figures 6 and 7: scores, errors after attacks and reconstructions with and without mixup.

    VAEs with mixup are compared with those of ``beta`` in the same folder, at the same β and at
    the same error of reconstruction.

    Args:
        out: folder for mixup.h5, mixup.png, reconstructions.png, and what ``beta`` leaves.
        count: how many β without mixup, evenly spaced on a logarithmic scale.
        mixed: how many of them with mixup.
        weight: of the mixup penalty.
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
        without = plain(vaes, count, images, quick=quick)
        values = spaced(count, quick=quick)
        chosen = np.linspace(0, len(values) - 1, min(mixed, 2) if quick else mixed).round()
        subjects = [(values[i], weight) for i in np.unique(chosen.astype(int))]
        record = records.collect(path, vaes, subjects, effort(images, quick=quick))
        _make_reconstructions(vaes, subjects[_middle(len(subjects))])
    print(f"{scores_table(record)}\n\n{matches_table(matches(record, without))}")
    print(f"\nfigure     {draw(record, without, path.with_suffix('.png'))}")
    shown = path.with_name("reconstructions.h5")
    title = f"{record.configuration['dataset']}: reconstructions without and with mixup"
    print(f"figure     {pictures.read(shown).save(shown.with_suffix('.png'), title)}")


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
    errors = [one["reconstruction_error"].mean(1) for one in (record, without)]
    nearest = np.abs(np.subtract.outer(*errors)).argmin(1)
    return [_match(record, without, i, int(j)) for i, j in enumerate(nearest)]


def same_beta(record: Record, without: Record) -> list[Match]:
    """Every VAE with mixup beside the one without of the same β."""
    nearest = np.abs(np.subtract.outer(record["beta"], without["beta"])).argmin(1)
    return [_match(record, without, i, int(j)) for i, j in enumerate(nearest)]


def _match(record: Record, without: Record, i: int, j: int) -> Match:
    keys = {"ρ": RADIUS, "S": ENTROPY, "S max": "entropy_max", "MSE": "reconstruction_error"}
    pairs = {name: (record[key][i], without[key][j]) for name, key in keys.items()}
    for k, label in enumerate(marked_labels(record)):
        pairs[label] = (record["attack_error"][i, :, k], without["attack_error"][j, :, k])
    ratios = {name: ratio(*pair) for name, pair in pairs.items()}
    beta, weight = float(record["beta"][i]), float(record["mixup"][i])
    return Match(beta, weight, float(without["beta"][j]), ratios)


def marked_labels(record: Record) -> list[str]:
    """What the steps are called whose errors are kept for every image."""
    marked = record["marked"]
    pairs = zip(record["delta"][marked], record["power"][marked], strict=True)
    return [
        f"error at δ = {delta:.3g}" if power == 1 else f"error at norm {delta:.3g}"
        for delta, power in pairs
    ]


def matches_table(found: list[Match]) -> str:
    """Ratios with mixup to without, with 95 % intervals."""
    names = list(found[0].ratios)
    lines = ["with mixup / without, at the nearest MSE of reconstruction, with 95 % intervals"]
    lines += [f"{'β':>8}{'β without':>11}" + "".join(f"{name:>25}" for name in names)]
    for match in found:
        cells = "".join(f"{match.ratios[name]!s:>25}" for name in names)
        lines += [f"{match.beta:>8.3g}{match.matched_beta:>11.3g}{cells}"]
    return "\n".join(lines)


def draw(record: Record, without: Record, path: Path) -> Path:
    """One β in histograms and errors, with and without mixup; all β against reconstruction."""
    middle = _middle(len(record["beta"]))
    value = record["beta"][middle]
    same = int(np.abs(without["beta"] - value).argmin())
    pair, labels = (
        _side_by_side(without.select([same]), record.select([middle])),
        ("without mixup", "with mixup"),
    )
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    top, *below = np.asarray(figure.subfigures(3, 1))
    axes = top.subplots(1, 4)
    drawing.histograms(axes[:2], pair, labels)
    axes[0].legend(frameon=False)
    for axis, key in zip(axes[2:], (RADIUS, ENTROPY), strict=True):
        _against_reconstruction(axis, key, without, record, labels)
    for part, power in zip(below, (1, 0), strict=True):
        drawing.curves(part.subplots(1, 5, sharey=True), pair, "attack_error", power, labels)
    weight = record["mixup"][middle]
    title = (
        f"{drawing.caption(record)}, mixup of weight {weight:g}; β = {value:.3g} where one is shown"
    )
    return drawing.save(figure, path, title)


def _side_by_side(a: Record, b: Record) -> Record:
    """Two records of the same images and steps as one."""
    keys = ("eigenvalues", ENTROPY, "attack_error_mean")
    both = {key: np.concatenate([a[key], b[key]]) for key in keys}
    return Record(a.arrays | both, a.configuration)


def _against_reconstruction(
    axis: Axes, key: str, without: Record, record: Record, labels: tuple[str, str]
) -> None:
    for i, (one, style) in enumerate(((without, "-"), (record, "o"))):
        error, score = (one[name].mean(1) for name in ("reconstruction_error", key))
        axis.plot(error, score, style, color=drawing.colour(i, labels))
    axis.set(xlabel="MSE of reconstruction", ylabel=f"{LABELS[key]}, mean")
    if key == RADIUS:
        axis.set_yscale("log")


def _make_reconstructions(vaes: Vaes, subject: tuple[float, float]) -> None:
    """Figure 7, as pictures in reconstructions.h5."""
    path = vaes.out / "reconstructions.h5"
    configuration = {**vaes.configuration, "vae": list(subject), "shown": SHOWN}
    if named_arrays.holds(path, configuration):
        return
    x, beta = vaes.held_out(SHOWN), subject[0]
    rows = [("original", x)]
    for label, weight in (("without mixup", 0.0), ("with mixup", subject[1])):
        vae = vaes.get(beta, weight)
        rows.append((f"{label},\nβ = {beta:.3g}", vae.decode(vae.encode(x)[0])))
    pictures.write(path, pictures.stack(rows), configuration)


def _middle(count: int) -> int:
    """Which of several VAEs is shown."""
    return (count - 1) // 2

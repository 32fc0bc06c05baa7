"""What another training would give: several of each β, with mixup and without."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm.auto import tqdm

from models.recipe import MIXUP_FORMS
from pullback.arguments import require_choice, require_integer

from .. import named_arrays
from ..named_arrays import Variable
from . import drawing, records
from .beta import spaced
from .measurement import Effort, effort
from .records import OF_VAES
from .scores import by_name
from .statistics import Interval, ratio_of_trainings
from .tables import columns
from .vaes import Subject, Vaes, unusual
from .verdicts import collapsed

NAMES = {"text": "", "code": " as in the authors' code"}  # of the forms of mixup
LAYOUT = {
    "training": Variable(("training",), "index of the training"),
    "score": Variable(("score",), "what is averaged over images"),
    "beta": Variable(("training",), "weight of the Kullback-Leibler divergence"),
    "mixup": Variable(("training",), "weight of the mixup penalty"),
    "seed": Variable(("training",), "seed of the training"),
    "mean": Variable(("training", "score"), "mean of the score over images"),
    "deviation": Variable(("training", "score"), "standard deviation over images"),
    "pixel_variance": Variable(("training",), "variance over images of a pixel, mean over pixels"),
}


@dataclass(frozen=True)
class Trainings:
    """Scores of each training.

    Attributes:
        beta, mixup, seed: ``(n,)``, how it was trained.
        score: names, those of :func:`scores.by_name`.
        mean, deviation: ``(n, score)``, over images.
        pixel_variance: ``(n,)``.
        configuration: what else the numbers depend on.
    """

    beta: NDArray
    mixup: NDArray
    seed: NDArray
    score: tuple[str, ...]
    mean: NDArray
    deviation: NDArray
    pixel_variance: NDArray
    configuration: dict[str, Any]

    @property
    def betas(self) -> NDArray:
        """The different β, ascending."""
        return np.unique(self.beta)

    def means(self, score: str, beta: float, *, mixed: bool) -> NDArray:
        """``(seeds,)``, of the trainings of a β with mixup or without; of none, for another β."""
        chosen = np.isclose(self.beta, beta, rtol=1e-4) & ((self.mixup > 0) == mixed)
        return self.mean[chosen, self.score.index(score)]

    def ratio(self, score: str, beta: float, cases: int = 1) -> Interval | None:
        """With mixup over without, with an interval between trainings; None if they are too few.

        Where it is one of several ``cases``, they share the 5 %.
        """
        with_mixup, without = (self.means(score, beta, mixed=mixed) for mixed in (True, False))
        return ratio_of_trainings(with_mixup, without, cases)

    def has_collapsed(self, beta: float, variance: float | None, *, mixed: bool) -> bool:
        """Whether the code has; ``variance`` as for :func:`verdicts.collapsed`."""
        errors = self.means("MSE", beta, mixed=mixed)
        return len(errors) > 0 and bool(collapsed(errors.mean(), variance))

    def scatter(self, score: str, betas: NDArray) -> tuple[float, float]:
        """How much log(with mixup / without) varies from one pair of trainings to another.

        Returns:
            The variance, pooled over ``betas``, and with how many degrees of freedom it is known;
            NaN and 0 if no β was trained twice.
        """
        squares, freedom = [], []
        for mixed in (True, False):
            logs = [np.log(self.means(score, beta, mixed=mixed)) for beta in betas]
            squares.append(sum(((x - x.mean()) ** 2).sum() for x in logs if len(x)))
            freedom.append(sum(len(x) - 1 for x in logs if len(x)))
        if min(freedom) < 1:
            return np.nan, 0
        return float(sum(s / f for s, f in zip(squares, freedom, strict=True))), min(freedom)


def widen(interval: Interval, scatter: tuple[float, float], cases: int = 1) -> Interval:
    """An interval over images of one pair of trainings, with the scatter of trainings added.

    It is all positive numbers if that is not known: images say nothing of another training. Where
    it is one of several ``cases``, they share the 5 %.
    """
    variance, freedom = scatter
    if freedom < 1:
        return Interval(interval.value, 0.0, np.inf)
    # Of a zero, there is no logarithm: nothing is known then.
    images = np.log(np.divide(interval.high, interval.low)) / (2 * stats.norm.ppf(0.975))
    side = stats.t.ppf(1 - 0.025 / cases, freedom) * np.sqrt(images**2 + variance)
    return Interval(
        interval.value,
        *(float(interval.value * np.exp(sign * side)) for sign in (-1, 1)),
    )


def seeds(
    out: str,
    count: int = 50,
    mixed: int = 4,
    betas: list[float] | None = None,
    weight: float = 1.0,
    mixup_form: str = "text",
    seeds: int = 5,
    images: int = 3072,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Scores of several trainings of some of the β of ``beta``, with latent mixup and without.

    Means and deviations over images are kept, which is little. What beta.h5 in the same folder
    holds is taken from there.

    Args:
        out: folder for seeds.h5 and seeds.png (seeds-code for that form), and the checkpoints.
        count: how many β there are without mixup, evenly spaced on a logarithmic scale.
        mixed: how many of them are trained several times, evenly chosen.
        betas: which β, for another choice than these.
        weight: of the mixup penalty.
        mixup_form: text, as the paper's text has the penalty, or code, as the authors' code has it.
        seeds: how many trainings of each, with the seeds from the study's own on.
        images: how many held-out images are measured.
        quick: at most four β, two of them with mixup, and two seeds; fewer images.
        redraw: draw what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    require_choice("mixup_form", mixup_form, MIXUP_FORMS)
    require_integer("mixed", mixed, 1)
    path = Path(out, f"{file_stem(mixup_form)}.h5")
    vaes = Vaes(out, **options)
    if redraw:
        found = read(path)
    else:
        extent = effort(images, quick=quick)
        marked = Effort(extent.images, extent.marked, extent.marked)
        values = betas or some(spaced(count, quick=quick), min(mixed, 2) if quick else mixed)
        subjects = vaes.repeated(
            [Subject(b, w, mixup_form if w else "text") for b in values for w in (0.0, weight)],
            min(seeds, 2) if quick else seeds,
        )
        found = collect(path, vaes, subjects, marked)
    print(table(found))
    print(f"\nfigure     {draw(found, path.with_suffix('.png'), mixup_form)}")


def file_stem(form: str) -> str:
    """What the files of a form of mixup are called."""
    return "seeds" if form == "text" else f"seeds-{form}"


def some(values: list[float], count: int) -> list[float]:
    """Evenly chosen ones, both ends among them."""
    chosen = np.linspace(0, len(values) - 1, count).round().astype(int)
    return [values[i] for i in np.unique(chosen)]


def collect(path: Path, vaes: Vaes, subjects: list[Subject], marked: Effort) -> Trainings:
    """The file at ``path``, measured first as far as it is not there yet.

    Raises:
        FileExistsError: it was measured with other settings; says what differs.
    """
    configuration = {
        **vaes.configuration,
        **marked.configuration,
        "trainings": [subject.listed() for subject in subjects],
    }
    if not named_arrays.holds(path, configuration):
        known = _known(vaes, marked)
        parts = [
            known.get(subject) or records.part(vaes, subject, marked, "marked-")
            for subject in tqdm(subjects, unit="VAE", desc=path.stem)
        ]
        named_arrays.write(path, LAYOUT, _together(parts, subjects, vaes.seed), configuration)
    return read(path)


def read(path: Path) -> Trainings:
    """A file of :func:`seeds`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    arrays, configuration = named_arrays.read(path, LAYOUT)
    names = {field.name for field in fields(Trainings)}
    return Trainings(**{k: v for k, v in arrays.items() if k in names}, configuration=configuration)


def _known(vaes: Vaes, marked: Effort) -> dict[Subject, Mapping[str, NDArray]]:
    """VAEs that beta.h5 holds, measured with as many images."""
    path = vaes.out / "beta.h5"
    if not path.exists():
        return {}
    record = records.read(path)
    settings = {**vaes.configuration, "images": marked.images}
    if any(record.configuration.get(key) != value for key, value in settings.items()):
        return {}
    found: dict[Subject, Mapping[str, NDArray]] = {}
    for i, (beta, seed) in enumerate(zip(record["beta"], record["seed"], strict=True)):
        subject = Subject(float(beta), seed=None if seed == vaes.seed else int(seed))
        found[subject] = {
            key: array[0] if key in OF_VAES else array
            for key, array in record.select([i]).arrays.items()
        }
    return found


def _together(
    parts: list[Mapping[str, NDArray]], subjects: list[Subject], seed: int
) -> dict[str, Any]:
    rows = [by_name(arrays) for arrays in parts]
    # The images are the same for all; beta.h5 of an earlier version does not say.
    variance = [float(arrays["pixel_variance"]) for arrays in parts if "pixel_variance" in arrays]
    return {
        "training": np.arange(len(rows)),
        "score": tuple(rows[0]),
        "beta": np.array([subject.beta for subject in subjects]),
        "mixup": np.array([subject.mixup for subject in subjects]),
        "seed": np.array([seed if one.seed is None else one.seed for one in subjects]),
        "mean": np.array([[values.mean() for values in row.values()] for row in rows]),
        "deviation": np.array([[values.std() for values in row.values()] for row in rows]),
        "pixel_variance": np.full(len(rows), np.mean(variance) if variance else np.nan),
    }


def table(found: Trainings) -> str:
    """Means over trainings, and ratios with mixup to without."""
    names = ("ρ", "S", "MSE")
    titles = ["β", "trainings", "ρ without", "ρ with", *(f"{name} with/without" for name in names)]
    rows = []
    for beta in found.betas:
        radii = [found.means("ρ", beta, mixed=mixed) for mixed in (False, True)]
        ratios = [found.ratio(name, beta) for name in names]
        rows.append(
            [f"{beta:.3g}", f"{len(radii[0])}", *(f"{np.exp(np.log(x).mean()):.4g}" for x in radii)]
            + ["of one training" if it is None else str(it) for it in ratios]
        )
    text = "geometric means over trainings of means over images; 95 % intervals between trainings"
    return f"{text}\n{columns(titles, rows)}"


def draw(found: Trainings, path: Path, form: str = "text") -> Path:
    """ρ, S and the error of reconstruction of every training, with mixup and without.

    Args:
        found: the trainings.
        path: the picture, as PNG; a PDF comes beside it.
        form: of the mixup penalty, text or code, for the title.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    units = {"ρ": "spectral radius ρ [latent²/input²]", "S": "entropy S of λ/Σλ [nat]"}
    units["MSE"] = "error of reconstruction, MSE [input²]"
    for axis, (name, label) in zip(axes, units.items(), strict=True):
        for mixed, side, colour, marker in (
            (False, 0.93, drawing.WITHOUT, "o"),
            (True, 1.07, drawing.WITH, "^"),
        ):
            for i, beta in enumerate(found.betas):
                values = found.means(name, beta, mixed=mixed)
                text = ("with mixup" if mixed else "without mixup") if i == 0 else None
                axis.plot(
                    np.full(len(values), side * beta), values, marker, color=colour,
                    fillstyle="none", label=text,
                )  # fmt: skip
        axis.set(xscale="log", xlabel="β", ylabel=label)
        axis.set_xticks(found.betas, [f"{beta:.3g}" for beta in found.betas])
        axis.set_xticks([], minor=True)
        axis.set_xlim(found.betas.min() / 2, found.betas.max() * 2)
        if name == "ρ":
            axis.set_yscale("log")
            drawing.plain_ticks(axis.yaxis)
        axis.grid(color="0.93")
    axes[0].legend(frameon=False)
    facts = found.configuration
    return drawing.save(
        figure,
        path,
        f"How far trainings of the same β lie apart, with mixup{NAMES[form]} and without: "
        f"{facts['dataset']},\n"
        f"each mark one training of {facts['epochs']} epochs{unusual(facts)}, mean over "
        f"{facts['images']} images",
    )

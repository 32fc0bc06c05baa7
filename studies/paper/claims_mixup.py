"""Claims about training with latent mixup."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from . import gp
from .archives import Archives
from .claim import OURS, Claim
from .mixup import Match, collapsed_betas
from .scores import by_name
from .seeds import NAMES, Trainings, widen
from .statistics import Interval
from .verdicts import COST, Shared, collapsed, lying_below, of_all


def of_mixup(archives: Archives) -> list[Claim]:
    """Figures 6 and 7: at the same β, between trainings; and at the same reconstruction."""
    several = archives.trainings
    found = [] if _form(archives) in several else _of_pairs(archives)
    for form, trainings in several.items():
        found += _between_trainings(form, trainings, archives.variance)
    return [*found, *_at_nearest_error(archives)]


def _form(archives: Archives) -> str:
    """Of the mixup of which there is one training of each β."""
    return "text" if archives.mixup is None else archives.mixup.mixup_form


def _between_trainings(form: str, trainings: Trainings, variance: float | None) -> list[Claim]:
    """At the same β, with intervals between trainings."""
    count = len(np.unique(trainings.seed))
    found, said = [], f"mixup{NAMES[form]}"
    for name, text, bound, words in _TESTS:
        gone = {
            float(beta)
            for beta in trainings.betas
            for mixed in _decides(name)
            if trainings.has_collapsed(beta, variance, mixed=mixed)
        }
        known = {
            float(beta): partial(_ratio, trainings, name, beta)
            for beta in trainings.betas
            if trainings.ratio(name, beta) is not None
        }
        found.append(
            _claim(
                text.format(mixup=said),
                known,
                gone,
                bound,
                words,
                f"{name} with mixup over without, between {count} trainings of each",
                "Fig. 6" if form == "text" else OURS,
            )
        )
    return found


def _ratio(trainings: Trainings, name: str, beta: float, cases: int = 1) -> Interval:
    found = trainings.ratio(name, beta, cases)
    assert found is not None
    return found


def _decides(name: str) -> tuple[bool, ...]:
    """Without mixup and with: whose collapse leaves a ratio without a meaning.

    If mixup makes the code collapse, that is what it costs in reconstruction, and no gain in ρ.
    """
    return (False,) if name == "MSE" else (False, True)


def _of_pairs(archives: Archives) -> list[Claim]:
    """At the same β, of one training each."""
    matches, form = archives.same_beta, _form(archives)
    found: list[Claim] = []
    if not matches:
        return found
    for name, text, bound, words in _TESTS:
        ratios, added = _widened(archives, matches, name)
        found.append(
            _claim(
                text.format(mixup=f"mixup{NAMES[form]}"),
                ratios,
                _collapsed(archives, matches, name),
                bound,
                words,
                f"{name} with mixup over without, {added}",
                "Fig. 6" if form == "text" else OURS,
            )
        )
    return found


# Scores of which the paper says that mixup lowers them, at the same reconstruction.
_PAPERS = ("ρ", "S")
# Score, claim, bound on the ratio, and what it means to be under and over it.
_TESTS = (
    ("ρ", "{mixup} lowers ρ, at the same β", 1.0, ("lowers ρ", "raises it")),
    (
        "λ₁/Σλ",
        "with {mixup} the spectrum is more isotropic (smaller λ₁/Σλ), at the same β",
        1.0,
        ("more isotropic", "less"),
    ),
    (
        "MSE",
        f"{{mixup}} costs no reconstruction (at most {100 * (COST - 1):.0f} % more MSE), at the "
        "same β",
        COST,
        ("costs nothing", "costs more"),
    ),
)


def _at_nearest_error(archives: Archives) -> list[Claim]:
    """VAEs with mixup beside those without of the nearest error of reconstruction."""
    matches, form = archives.matches, _form(archives)
    found: list[Claim] = []
    for name in matches[0].ratios if matches else ():
        if name in ("MSE", "λ₁/Σλ"):
            continue
        ratios, added = _widened(archives, matches, name)
        found.append(
            _claim(
                f"mixup{NAMES[form]} lowers {name}, at the nearest MSE of reconstruction",
                ratios,
                _collapsed(archives, matches, name),
                1.0,
                (f"lowers {name}", "raises it"),
                f"{name} with mixup over without, {added}",
                "Sec. 4.2.2" if name in _PAPERS and form == "text" else OURS,
            )
        )
    return found


def _widened(
    archives: Archives, matches: list[Match], name: str
) -> tuple[dict[float, Shared], str]:
    """Ratios by β, with the scatter of trainings in their intervals, and what is in these."""
    ratios = {match.beta: match.ratios[name] for match in matches}
    gone = _collapsed(archives, matches, name)
    trainings = archives.trainings.get(_form(archives))
    if trainings is not None and name in trainings.score:
        betas = np.array([beta for beta in trainings.betas if not _among(beta, gone)])
        scatter, source = trainings.scatter(name, betas), "between trainings"
    else:
        scatter, source = _around_the_curve(archives, name), "of trainings around their curve"
    widened: dict[float, Shared] = {
        beta: partial(widen, interval, scatter) for beta, interval in ratios.items()
    }
    if scatter[1]:
        return widened, f"over images of one training each, the scatter {source} added"
    return widened, "of one training each, whose scatter is not known"


def _around_the_curve(archives: Archives, name: str) -> tuple[float, float]:
    """As :meth:`Trainings.scatter`, from trainings of many β without mixup.

    Those with mixup are taken to scatter as much.
    """
    assert archives.beta is not None
    record = archives.beta
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), archives.variance)
    means = by_name(record.arrays)[name].mean(1)
    variance, freedom = gp.scatter(record["beta"][~gone], means[~gone])
    return 2 * variance, freedom


def _claim(
    text: str,
    ratios: Mapping[float, Shared],
    gone: set[float],
    bound: float,
    words: Sequence[str],
    measured: str,
    source: str,
) -> Claim:
    """A claim about several β; those where the code has collapsed are marked, and left out."""
    cells = "; ".join(
        f"{interval(1)} at β = {beta:.3g}{' (collapsed)' if _among(beta, gone) else ''}"
        for beta, interval in ratios.items()
    )
    cases = {
        f"at β = {beta:.3g}": lying_below(interval, bound)
        for beta, interval in ratios.items()
        if not _among(beta, gone)
    }
    return Claim(text, of_all(cases, *words), f"{measured}: {cells}", source)


def _collapsed(archives: Archives, matches: list[Match], name: str) -> set[float]:
    """β at which a collapse leaves the ratio of a score without a meaning."""
    of = (archives.mixup, archives.beta, archives.variance)
    gone = {mixed: collapsed_betas(*of, mixed=mixed) for mixed in _decides(name)}
    return {
        match.beta
        for match in matches
        if _among(match.matched_beta, gone[False]) or _among(match.beta, gone.get(True, set()))
    }


def _among(beta: float, betas: set[float]) -> bool:
    return any(np.isclose(beta, other, rtol=1e-4) for other in betas)

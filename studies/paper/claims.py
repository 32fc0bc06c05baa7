"""The paper's claims, put to the test on the archives of a data set."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .archives import Archives
from .combined import radii
from .displacements import Displacements
from .mixup import Match
from .optimality_report import EIGEN, HOLDS, PGDS
from .records import Record
from .statistics import Interval, ratio, spearman

CONFIRMED, REFUTED, CONDITIONAL = "confirmed", "refuted", "conditional"
STRONG = 0.9  # rank correlation from which a trend is called confirmed
BROKEN = 0.01  # rise of the mean squared error at which reconstructions count as broken
_ENTROPIES = {
    "S of λ/Σλ": "entropy",
    "S of λ as it is": "entropy_none",
    "S of λ/λ₁": "entropy_max",
    "S of the singular values s/s₁ of J_μ, as in the authors' code": "mean_entropy",
}


class Claim(NamedTuple):
    """A claim, what became of it, and the numbers that decide, with 95 % intervals."""

    text: str
    verdict: str
    evidence: str


def claims(archives: Archives) -> list[Claim]:
    """All claims that the archives can decide."""
    found: list[Claim] = []
    if archives.beta is not None:
        found += [*_scores(archives.beta), *_attacks(archives.beta)]
    if archives.distance is not None:
        found.append(_distances(archives.distance))
    if archives.matches:
        found += _mixup(archives.same_beta, archives.matches)
    if archives.combined is not None and archives.beta is not None:
        found.append(_combined(archives.combined, archives.beta))
    if archives.optimality is not None:
        found += _optimality(archives.optimality[0])
    return found


def _scores(record: Record) -> list[Claim]:
    beta = record["beta"]
    radius = spearman(record.radius.mean(1), beta)
    found = [Claim("ρ falls as β grows", _trend(radius, -1), f"rank correlation {radius}")]
    for label, key in _ENTROPIES.items():
        entropy = spearman(record[key].mean(1), beta)
        text = f"S falls as β grows: {label}"
        found.append(Claim(text, _trend(entropy, -1), f"rank correlation {entropy}"))
    share = (record.radius / record["trace"]).mean(1)
    isotropy = spearman(share, beta)
    evidence = (
        f"λ₁/Σλ is {share[0]:.3f} at β = {beta[0]:.3g}, {share[-1]:.3f} at {beta[-1]:.3g}; rank "
        f"correlation {isotropy}"
    )
    text = "the spectrum gets more isotropic as β grows (λ₁/Σλ falls)"
    return [*found, Claim(text, _trend(isotropy, -1), evidence)]


def _attacks(record: Record) -> list[Claim]:
    """Small β breaks at small steps, large β at larger ones: δ as printed, and at equal norm."""
    found = []
    for power, text in ((1, "δ, the step being δλη"), (0, "‖η‖, the same for all β")):
        where = broken_at(record, power)
        trends = [spearman(where[:, rank], record["beta"]) for rank in range(where.shape[1])]
        cells = "; ".join(f"direction {i + 1}: {trend}" for i, trend in enumerate(trends))
        ends = " and ".join(
            f"{_size(where[i, 0])} at β = {record['beta'][i]:.3g}" for i in (0, len(where) - 1)
        )
        found.append(
            Claim(
                f"small β breaks at a small, large β at a larger {text}",
                _all([_trend(trend, 1) for trend in trends]),
                f"along direction 1 the error has risen by {BROKEN} at {ends}; rank correlation of "
                f"that step with β, {cells}",
            )
        )
    return found


def broken_at(record: Record, power: float) -> NDArray[np.float64]:
    """``(vae, rank)``, the step size from which the mean error has risen by ``BROKEN``.

    Interpolated in the logarithm; infinite where the largest step tried is not enough, and the
    smallest one tried where that is enough already.
    """
    steps = record.steps(power)
    delta = np.log(record["delta"][steps])
    rise = record["attack_error_mean"][..., steps]
    rise = rise - record["reconstruction_error"].mean(1, dtype=float)[:, None, None]
    flat = [_crossing(delta, curve) for curve in rise.reshape(-1, len(steps))]
    return np.exp(np.array(flat)).reshape(rise.shape[:2])


def _crossing(delta: NDArray, rise: NDArray) -> float:
    over = np.flatnonzero(rise >= BROKEN)
    if len(over) == 0:
        return np.inf
    first = int(over[0])
    if first == 0:
        return float(delta[0])
    pair = slice(first - 1, first + 1)
    return float(np.interp(BROKEN, rise[pair], delta[pair]))


def _distances(record: Record) -> Claim:
    steps, beta = record.steps(1), record["beta"]
    mean = record["latent_distance_mean"][:, 0, steps]
    share = (np.diff(mean, axis=0) < 0).all(0).mean()
    middle = len(steps) // 2
    values = ", ".join(f"{d:.3g} at β = {b:g}" for d, b in zip(mean[:, middle], beta, strict=True))
    verdict = CONFIRMED if share == 1 else CONDITIONAL if share > 0 else REFUTED
    delta = record["delta"][steps][middle]
    return Claim(
        "the code moves further the smaller β is, at the same δ (Figure 3)",
        verdict,
        f"at {share:.0%} of {len(steps)} values of δ; at δ = {delta:.3g}: {values}",
    )


def _mixup(same_beta: list[Match], matches: list[Match]) -> list[Claim]:
    equal = {match.beta: match.ratios for match in same_beta}
    lower = _mixup_claim("mixup lowers ρ, at the same β", equal, "ρ")
    verdicts = [CONFIRMED if ratios["MSE"].low <= 1.05 else REFUTED for ratios in equal.values()]
    text = "mixup costs no reconstruction (at most 5 % more MSE), at the same β"
    kept = _mixup_claim(text, equal, "MSE")._replace(verdict=_all(verdicts))
    nearest = {match.beta: match.ratios for match in matches}
    names = [name for name in matches[0].ratios if name != "MSE"]
    text = "mixup lowers {}, at the nearest MSE of reconstruction"
    return [lower, kept, *(_mixup_claim(text.format(name), nearest, name) for name in names)]


def _mixup_claim(text: str, ratios: dict[float, dict[str, Interval]], name: str) -> Claim:
    """Whether a score is lower with mixup at each β."""
    some = {beta: one[name] for beta, one in ratios.items()}
    cells = "; ".join(f"{interval} at β = {beta:.3g}" for beta, interval in some.items())
    verdict = _all([_below_one(interval) for interval in some.values()])
    return Claim(text, verdict, f"{name} with mixup over without: {cells}")


def _combined(record: Record, flat: Record) -> Claim:
    means = [ratio(*pair) for pair in zip(*radii(record, flat), strict=True)]
    larger = sum(interval.low > 1 for interval in means)
    smaller = sum(interval.high < 1 for interval in means)
    least, most = (pick(zip(means, record["beta"], strict=True)) for pick in (min, max))
    return Claim(
        "the combined metric has a larger ρ than the flat one",
        _all([_above_one(interval) for interval in means]),
        f"ratio of means over images: above 1 at {larger} and below 1 at {smaller} of {len(means)} "
        f"β; least {least[0]} at β = {least[1]:.3g}, most {most[0]} at β = {most[1]:.3g}",
    )


def _optimality(found: Displacements) -> list[Claim]:
    ratios = found.ratio(EIGEN, PGDS)
    passes = found.n_products
    eigen, pgd = (passes[:, found.attack.index(name)].mean() for name in (EIGEN, PGDS[0]))
    claims = []
    for clipping, ratio_ in zip(found.clipping, ratios, strict=True):
        medians = np.median(ratio_, axis=1)
        held = int((medians >= HOLDS).cumprod().sum())
        low, high = np.quantile(ratio_[0], (0.025, 0.975))
        where = (
            f"the median stays at {HOLDS} or more up to ‖η‖ = {found.eps[held - 1]:.3g}"
            if held
            else f"the median is under {HOLDS} already there"
        )
        claims.append(
            Claim(
                f"the step along the eigenvector is the best ℓ₂ attack for small ‖η‖, {clipping}",
                CONFIRMED if held else REFUTED,
                f"displacement over the best PGD's at ‖η‖ = {found.eps[0]:.3g}: median "
                f"{medians[0]:.4f}, 95 % of images in [{low:.4f}, {high:.4f}]; {where}; "
                f"{eigen:.0f} passes against {pgd:.0f}, 1/{pgd / eigen:.1f}",
            )
        )
    return claims


def _trend(correlation: Interval, sign: int) -> str:
    """Whether a rank correlation has the claimed sign."""
    low, high = sorted((sign * correlation.low, sign * correlation.high))
    if low > 0 and sign * correlation.value >= STRONG:
        return CONFIRMED
    return REFUTED if high < 0 else CONDITIONAL


def _below_one(interval: Interval) -> str:
    return CONFIRMED if interval.high < 1 else REFUTED if interval.low > 1 else CONDITIONAL


def _above_one(interval: Interval) -> str:
    return CONFIRMED if interval.low > 1 else REFUTED if interval.high < 1 else CONDITIONAL


def _all(verdicts: Sequence[str]) -> str:
    """Of parts that all have to hold."""
    return verdicts[0] if len(set(verdicts)) == 1 else CONDITIONAL


def _size(step: float) -> str:
    return f"{step:.3g}" if np.isfinite(step) else "no step tried"

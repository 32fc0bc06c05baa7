"""Claims about β: what scores and errors after attacks do as it grows."""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from . import gp
from .claim import OURS, Claim
from .measurement import PUBLISHED, Step
from .records import Record
from .scores import marked_labels
from .statistics import Interval, rank_correlation, ratio, trend
from .verdicts import (
    BROKEN,
    Verdict,
    above,
    collapsed,
    collapsed_where,
    lying_above,
    of_all,
    of_trend,
    trending,
)

_ENTROPIES = {
    "S of λ/Σλ": "entropy",
    "S of λ as it is": "entropy_none",
    "S of λ/λ₁": "entropy_max",
    "S of the singular values s/s₁ of J_μ, as in the authors' code": "mean_entropy",
}


def of_scores(record: Record, variance: float | None) -> list[Claim]:
    """Figure 5, first row: ρ, S, the isotropy of the spectrum, J_σ, and reconstruction."""
    beta, where = record["beta"], "Fig. 5"
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), variance)
    radius = record.radius.mean(1, dtype=float)
    fall = trend(radius, beta)
    evidence = f"rank correlation {fall}; {_curve(beta[~gone], radius[~gone], 'ρ')}"
    if gone.any():
        evidence += (
            f"; the code has collapsed {collapsed_where(beta, gone)}, which the slope leaves out"
        )
    found = [Claim("ρ falls as β grows", of_trend(fall, -1), evidence, where)]
    for label, key in _ENTROPIES.items():
        fall = trend(record[key].mean(1, dtype=float), beta)
        evidence = f"rank correlation {fall}"
        if key == "entropy":
            evidence += f"; {_curve(beta[~gone], record[key].mean(1)[~gone], 'S')}"
        text = f"S falls as β grows: {label}"
        found.append(Claim(text, of_trend(fall, -1), evidence, where))
    for text, values, sign, source in (
        (
            "the directions get more isotropic as β grows, of which a smaller S is the sign (λ₁/Σλ "
            "falls)",
            record.radius / record["trace"],
            -1,
            "Sec. 4.2.1",
        ),
        (
            "the part of ρ that is not from J_μ grows with β (1 − s₁²/ρ rises)",
            1 - record["mean_radius"] ** 2 / record.radius,
            1,
            "Sec. 4.2.1",
        ),
        (
            "β costs reconstruction (MSE rises)",
            record["reconstruction_error"],
            1,
            "Sec. 5",
        ),
    ):
        mean = values.mean(1, dtype=float)
        found_trend = trend(mean, beta)
        ends = f"{mean[0]:.3g} at β = {beta[0]:.3g}, {mean[-1]:.3g} at {beta[-1]:.3g}"
        evidence = f"{ends}, largest {mean.max():.3g}; rank correlation {found_trend}"
        found.append(Claim(text, of_trend(found_trend, sign), evidence, source))
    return found


def _curve(beta: NDArray, values: NDArray, name: str) -> str:
    """What a Gaussian process says, of values that trainings scatter."""
    if len(np.unique(beta)) < gp.FEWEST:
        return f"{len(np.unique(beta))} β are too few for a curve"
    logarithmic = name == "ρ"
    if not gp.has_curve(values, logarithmic=logarithmic):
        return f"no curve, as {name} is not a {'positive ' * logarithmic}number everywhere"
    curve = gp.fit(beta, values, logarithmic=logarithmic)
    slope, negative = curve.slope()
    probability = "over 0.999" if negative > 0.999 else f"{negative:.3f}"
    text = (
        f"mean slope d{'log ' * logarithmic}{name}/dlog β {slope}, negative with probability "
        f"{probability}"
    )
    if not curve.knows_scatter:
        return f"{text}; the curve passes through every training, so that no scatter is known"
    scatter = f"{curve.scatter():.1%}" if logarithmic else f"{curve.scatter():.3f} nat"
    text += f"; trainings scatter around the curve by {scatter}"
    if not logarithmic:
        return text
    first = curve.first_below(gp.THRESHOLD)
    where = "at no β" if first is None else f"from β = {first:.2g} on"
    return f"{text}; a training has ρ < {gp.THRESHOLD:g} with 95 % probability {where}"


def of_attacks(record: Record, metric: str = "", source: str = "Fig. 5") -> list[Claim]:
    """Small β breaks at small steps, large β at larger ones: δ as printed, and at equal norm."""
    found, beta = [], record["beta"]
    for power, text, where in (
        (1, "δ, the step being δλη", source),
        (0, "‖η‖, the same for all β", OURS),
    ):
        steps = broken_at(record, power)
        trends = [trend(steps[:, rank], beta) for rank in range(steps.shape[1])]
        cases = {f"along direction {i + 1}": trending(one, 1) for i, one in enumerate(trends)}
        cells = "; ".join(f"direction {i + 1} {one.value:.3f}" for i, one in enumerate(trends))
        ends = " and ".join(f"{_size(steps[i, 0])} at β = {beta[i]:.3g}" for i in (0, -1))
        found.append(
            Claim(
                f"small β breaks at a small, large β at a larger {text}{metric}",
                of_all(cases),
                f"along direction 1 the error has risen by {BROKEN} at {ends}; rank correlation of "
                f"that step with β, {cells}, largest p {max(one.p for one in trends):.2g}",
                where,
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


def of_damage(record: Record, variance: float | None) -> list[Claim]:
    """Whether ρ of an image says how much its reconstruction suffers, within each VAE."""
    gone = collapsed(record["reconstruction_error"].mean(1, dtype=float), variance)
    kept, found = np.flatnonzero(~gone), []
    if len(kept) == 0:
        return []
    for k, label in enumerate(marked_labels(record.arrays)):
        rise = record["attack_error"][..., k] - record["reconstruction_error"]
        some = [partial(rank_correlation, record.radius[i], rise[i]) for i in kept]
        cases = {
            f"at β = {record['beta'][i]:.3g}": lying_above(one, 0)
            for i, one in zip(kept, some, strict=True)
        }
        values = [one().value for one in some]
        low, middle, high = np.quantile(values, (0, 0.5, 1))
        found.append(
            Claim(
                f"images with a larger ρ suffer more: {label}",
                of_all(cases),
                "rank correlation over images of ρ with the rise of the error, by VAE: median "
                f"{middle:.2f}, from {low:.2f} to {high:.2f}",
                OURS,
            )
        )
    return found


def of_distances(record: Record, many: Record | None, variance: float | None) -> list[Claim]:
    """Figures 2 and 3.

    Args:
        record: VAEs of the few β of these figures.
        many: those of Figure 5, which show whether there is a trend, and how far trainings scatter;
            None if they are not there.
        variance: of the pixels, by which collapsed codes are told; None if it is not known.
    """
    one, many = record.of_one_seed(), many or record.of_one_seed()
    differences = [_difference(one, step, many, variance) for step in _unclipped(one)]
    return [*differences, _order(one, many)]


def _unclipped(record: Record) -> list[int]:
    """The paper's first step, which is not clipped there, if it was taken."""
    steps = record.steps(1, clipped=False)
    return [int(step) for step in steps if np.isclose(record["delta"][step], PUBLISHED[1])]


def _rises(record: Record, step: int) -> NDArray[np.float64]:
    """``(vae,)``, by how much the mean error is larger after a step along eigenvector 1."""
    return record["attack_error_mean"][:, 0, step] - record["reconstruction_error"].mean(
        1, dtype=float
    )


def _difference(record: Record, step: int, many: Record, variance: float | None) -> Claim:
    """Figure 2; the same clipped beside it."""
    at = int(np.abs(np.log(record["beta"])).argmin())
    before = record["reconstruction_error"][at].astype(float)
    value, deviation = _rises(record, step)[at], record["attack_error_std"][at, 0, step]
    images = np.hypot(deviation, before.std()) / np.sqrt(len(before))
    side, added = np.inf, "of one training, whose scatter is not known"
    gone = collapsed(many["reconstruction_error"].mean(1, dtype=float), variance)
    for same in _unclipped(many):
        scatter, freedom = gp.scatter(many["beta"][~gone], _rises(many, same)[~gone])
        if freedom:
            side = stats.t.ppf(0.975, freedom) * np.hypot(images, value * np.sqrt(scatter))
            added = "over images, the scatter of trainings around their curve added"
    rise = Interval(*(float(value + sign * side) for sign in (0, -1, 1)))
    clipped = record.attack_error(Step(PUBLISHED[1], 1))[at].astype(float)
    return Claim(
        f"with δ = {PUBLISHED[1]:.4f}, reconstructions differ significantly from the images (their "
        f"mean error rises by {BROKEN:g} or more)",
        Verdict(above(rise, BROKEN)),
        f"β = {record['beta'][at]:g}: the mean error rises from {before.mean():.4f} by {rise}, "
        f"{added}; if images are clipped to [0, 1], it becomes {ratio(clipped, before)} times as "
        f"large, rises for {100 * np.mean(clipped > before):.0f} % of images, and at least doubles "
        f"for {100 * np.mean(clipped >= 2 * before):.1f} %",
        "Fig. 2",
    )


def _order(record: Record, many: Record) -> Claim:
    """Figure 3: three trainings alone would be in order by chance one time in six."""
    steps = many.steps(1)
    moved, delta = many["latent_distance_mean"][:, 0, steps], many["delta"][steps]
    trends = [trend(column, many["beta"]) for column in moved.T]
    cases = {f"at δ = {d:.3g}": trending(one, -1) for d, one in zip(delta, trends, strict=True)}
    low, high = min(one.value for one in trends), max(one.value for one in trends)
    shown = record.steps(1)
    middle = shown[len(shown) // 2]
    mean = record["latent_distance_mean"][:, 0, middle]
    values = ", ".join(f"{d:.3g} at β = {b:g}" for d, b in zip(mean, record["beta"], strict=True))
    return Claim(
        "the code moves further the smaller β is, at the same δ",
        of_all(cases),
        f"rank correlation of the mean distance with β, of {trends[0].betas} β, for "
        f"{len(steps)} values of δ: from {low:.3f} to {high:.3f}, largest p "
        f"{max(one.p for one in trends):.2g}; in Figure 3, at δ = {record['delta'][middle]:.3g}: "
        f"{values}",
        "Fig. 3",
    )


def _size(step: float) -> str:
    return f"{step:.3g}" if np.isfinite(step) else "no step tried"

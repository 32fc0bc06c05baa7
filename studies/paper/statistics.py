"""Estimates with intervals and probabilities: over images, over trainings, over a grid of β."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_RESAMPLES = 2000
_PERMUTATIONS = 9999


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Correlation(NamedTuple):
    """A rank correlation over trainings.

    Attributes:
        value: Spearman's coefficient.
        p: probability of one at least as large, in size, if the order of the values were chance.
        betas: how many different values of β there are.
    """

    value: float
    p: float
    betas: int

    def __str__(self) -> str:
        chance = f"p < {1e-3:g}" if self.p < 1e-3 else f"p = {self.p:.2g}"
        return f"{self.value:.3f} ({chance}, {self.betas} β)"


def ratio(a: NDArray, b: NDArray) -> Interval:
    """Mean of a over mean of b, images ``(n,)`` of both resampled together.

    It says how far the mean over other images would differ. Another training is not in it: see
    :func:`ratio_of_trainings`.
    """
    return _bootstrap(lambda a, b, axis: a.mean(axis) / b.mean(axis), a, b)


def spearman(a: NDArray, b: NDArray) -> float:
    """Rank correlation of ``(n,)`` pairs; 0 where one is constant."""
    return float(_unit_ranks(np.asarray(a, float)) @ _unit_ranks(np.asarray(b, float)))


def rank_correlation(a: NDArray, b: NDArray, cases: int = 1) -> Interval:
    """Spearman's of ``(n,)`` pairs drawn at random, such as images; 0 where one is constant.

    The interval is that of Bonett & Wright (Psychometrika 2000); of fewer than five pairs, it is
    all that there can be. Where it is one of several ``cases``, they share the 5 %.
    """
    value = spearman(a, b)
    if len(a) < 5:
        return Interval(value, -1.0, 1.0)
    side = stats.norm.ppf(1 - 0.025 / cases) * np.sqrt((1 + value**2 / 2) / (len(a) - 3))
    z = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    return Interval(value, float(np.tanh(z - side)), float(np.tanh(z + side)))


def median(values: NDArray) -> Interval:
    """Median of ``(n,)`` values drawn at random, such as images, between two of them.

    The interval holds the median with at least 95 % probability whatever the distribution is: how
    many of the values lie below it is binomial. Fewer than six values bound nothing, nor do values
    among which one is NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) < 6 or np.isnan(ordered).any():
        return Interval(float(np.median(ordered)), -np.inf, np.inf)
    low = max(0, int(stats.binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return Interval(float(np.median(ordered)), float(ordered[low]), float(ordered[-1 - low]))


def ratio_of_trainings(a: NDArray, b: NDArray, cases: int = 1) -> Interval | None:
    """Geometric mean of a over that of b, with Welch's t-interval of the logarithms.

    Args:
        a, b: positive means over images, one for each training, ``(n,)`` and ``(m,)``.
        cases: how many such ratios share the 5 %.

    Returns:
        None if there are fewer than two of either.
    """
    if min(len(a), len(b)) < 2:
        return None
    logs = [np.log(values) for values in (a, b)]
    found = stats.ttest_ind(*logs, equal_var=False)
    interval = found.confidence_interval(1 - 0.05 / cases)
    difference = logs[0].mean() - logs[1].mean()
    return Interval(*(float(np.exp(x)) for x in (difference, interval.low, interval.high)))


def trend(values: NDArray, beta: NDArray) -> Correlation:
    """Rank correlation of values ``(n,)`` with β, with the probability of a permutation test.

    The values of β are chosen, not drawn, so that they cannot be resampled. If β did nothing, every
    order of the trainings would be as probable: that is what permutations show.
    """
    value = spearman(values, beta)
    ranks = [_unit_ranks(np.asarray(column, dtype=float)) for column in (values, beta)]
    order = np.random.default_rng(0).permuted(
        np.tile(np.arange(len(beta)), (_PERMUTATIONS, 1)), axis=1
    )
    chance = ranks[0][order] @ ranks[1]
    # Rounding must not make the order itself look different from what was seen. Where a value is
    # NaN, so is every correlation, and nothing is known to be smaller.
    larger = (~(np.abs(chance) < abs(value) - 1e-9)).sum()
    return Correlation(value, float((1 + larger) / (1 + _PERMUTATIONS)), len(np.unique(beta)))


def _unit_ranks(values: NDArray) -> NDArray:
    """Ranks less their mean, as a vector of length 1; zero where all values are the same."""
    ranks = stats.rankdata(values)
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length > 0 else ranks


def _bootstrap(statistic: Callable[..., NDArray], *columns: NDArray) -> Interval:
    """Percentile intervals; the same numbers every time. NaN around what is not finite."""
    columns = tuple(np.asarray(column, dtype=float) for column in columns)
    value = float(statistic(*columns, axis=-1))
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan)
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(value, *map(float, found.confidence_interval))

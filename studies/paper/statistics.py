"""Estimates with intervals, from SciPy's bootstrap."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def ratio(a: NDArray, b: NDArray) -> Interval:
    """Mean of a over mean of b, images ``(n,)`` of both resampled together."""
    return _bootstrap(lambda a, b, axis: a.mean(axis) / b.mean(axis), a, b)


def spearman(a: NDArray, b: NDArray) -> Interval:
    """Rank correlation of ``(n,)`` pairs, which are resampled; 0 where one side is constant."""

    def correlation(a: NDArray, b: NDArray, axis: int) -> NDArray:
        ranks = [stats.rankdata(values, axis=axis) for values in (a, b)]
        centred = [values - values.mean(axis, keepdims=True) for values in ranks]
        covariance = (centred[0] * centred[1]).sum(axis)
        scale = np.sqrt((centred[0] ** 2).sum(axis) * (centred[1] ** 2).sum(axis))
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    return _bootstrap(correlation, a, b)


def _bootstrap(statistic: Callable[..., NDArray], *columns: NDArray) -> Interval:
    """Percentile intervals; the same numbers every time."""
    columns = tuple(np.asarray(column, dtype=float) for column in columns)
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
    value = float(statistic(*columns, axis=-1))
    return Interval(value, *map(float, found.confidence_interval))

"""Estimates against SciPy, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from studies.paper.seeds import widen
from studies.paper.statistics import Interval, median, rank_correlation, ratio, spearman, trend


def test_rank_correlation_is_that_of_scipy():
    random = np.random.default_rng(1)
    a = random.normal(size=40)
    b = np.round(a + random.normal(size=40))
    b[:3] = np.inf
    expected = stats.spearmanr(a, b)
    found = rank_correlation(a, b)
    assert found.value == spearman(a, b) == pytest.approx(expected.statistic)
    assert found.low < found.value < found.high
    permuted = trend(a, b)
    assert permuted.value == found.value
    assert permuted.p == pytest.approx(expected.pvalue, abs=2e-4)
    assert permuted == trend(a, b)


def test_rank_correlation_with_a_constant_is_zero():
    assert spearman(np.arange(5), np.ones(5)) == 0
    assert trend(np.ones(9), np.arange(9)) == (0, 1, 9)


def test_four_values_in_order_are_no_rare_event():
    # 2 of the 24 orders of four values.
    assert trend(np.arange(4), np.arange(4)).p == pytest.approx(2 / 24, abs=0.01)


def test_the_interval_of_a_rank_correlation_holds_the_truth():
    held, truth = 0, 6 / np.pi * np.arcsin(0.5 / 2)  # of a Gaussian with correlation ½
    for seed in range(200):
        a, b = np.random.default_rng(seed).normal(size=(2, 100))
        found = rank_correlation(a, 0.5 * a + 0.75**0.5 * b)
        held += found.low <= truth <= found.high
    assert 182 <= held <= 198


def test_the_scatter_of_trainings_widens_an_interval():
    narrow = Interval(2.0, 1.9, 2.1)
    wide = widen(narrow, (0.01, 1000))
    # Standard deviations 0.0255 and 0.1 of the logarithm.
    assert np.log(wide.high / wide.low) == pytest.approx(
        2 * 1.96 * np.hypot(0.02553, 0.1), rel=1e-2
    )
    # Of one of ten, 0.5 %.
    tenth = widen(narrow, (0.01, 1000), 10)
    assert np.log(tenth.high / wide.high) == pytest.approx((2.81 - 1.96) * 0.1032, rel=2e-2)
    # Of images alone, nothing follows for another training.
    assert widen(narrow, (np.nan, 0)) == (2, 0, np.inf)


@pytest.mark.parametrize("count", [20, 101])
def test_the_interval_of_a_median_holds_the_truth(count):
    held = 0
    for seed in range(300):
        values = np.random.default_rng(seed).exponential(size=count)
        found = median(values)
        assert found.low <= found.value == np.median(values) <= found.high
        held += found.low <= np.log(2) <= found.high
    assert held >= 279  # 95 % of 300, less one and a half standard errors


def test_too_few_values_and_nan_bound_nothing():
    assert median(np.arange(5)) == (2, -np.inf, np.inf)
    assert median(np.arange(6)) == (2.5, 0, 5)
    assert median(np.append(np.ones(60), np.nan))[1:] == (-np.inf, np.inf)
    for count in (2, 3, 4):
        assert rank_correlation(np.arange(count), np.arange(count))[1:] == (-1, 1)
    assert np.isnan(rank_correlation(np.arange(9), np.append(np.ones(8), np.nan)).low)


def test_the_interval_of_a_ratio_holds_the_truth():
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        common = random.gamma(4, size=150)
        a, b = (common * random.gamma(20, mean / 20, size=150) for mean in (3, 2))
        found = ratio(a, b)
        assert found.value == pytest.approx(a.mean() / b.mean())
        held += found.low <= 1.5 <= found.high
    assert held >= 52
    assert str(found).count(",") == 1

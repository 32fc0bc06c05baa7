"""Estimates against SciPy, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from studies.paper.statistics import ratio, spearman


def test_rank_correlation_is_that_of_scipy():
    random = np.random.default_rng(1)
    a = random.normal(size=40)
    b = np.round(a + random.normal(size=40))
    b[:3] = np.inf
    found = spearman(a, b)
    assert found.value == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.low < found.value < found.high
    assert found == spearman(a, b)


def test_rank_correlation_with_a_constant_is_zero():
    assert spearman(np.arange(5), np.ones(5)) == (0, 0, 0)


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

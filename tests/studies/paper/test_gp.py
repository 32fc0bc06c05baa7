"""The curve that trainings share, on values drawn from a known one."""

import numpy as np
import pytest
from scipy import stats

from studies.paper import gp

BETAS = np.geomspace(0.01, 10, 50)


def drawn(slope: float, scatter: float, seed: int) -> np.ndarray:
    """A power law with relative noise."""
    return BETAS**slope * np.exp(scatter * np.random.default_rng(seed).normal(size=50))


def test_slope_and_scatter_of_a_power_law():
    curve = gp.fit(BETAS, drawn(-0.6, 0.1, 1), logarithmic=True)
    slope, negative = curve.slope()
    assert slope.low < -0.6 < slope.high
    assert slope.high - slope.low < 0.15
    assert negative > 0.999
    assert curve.scatter() == pytest.approx(0.1, rel=0.3)
    np.testing.assert_allclose(curve.middle, curve.beta**-0.6, rtol=0.15)
    assert gp.fit(BETAS, drawn(-0.6, 0.1, 1), logarithmic=True).slope() == (slope, negative)


def test_noise_has_no_slope():
    found = [gp.fit(BETAS, drawn(0, 0.3, seed), logarithmic=True).slope() for seed in range(3)]
    assert sum(slope.low < 0 < slope.high for slope, _ in found) >= 2
    assert any(0.05 < negative < 0.95 for _, negative in found)


def test_the_band_holds_95_percent_of_further_trainings():
    curve = gp.fit(BETAS, drawn(-0.6, 0.2, 3), logarithmic=True)
    low, high = (np.interp(BETAS, curve.beta, edge) for edge in curve.band())
    inside = [np.mean((low < new) & (new < high)) for new in (drawn(-0.6, 0.2, s) for s in (4, 5))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.05)


def test_from_which_beta_a_training_is_below_a_threshold():
    scatter = 0.2
    curve = gp.fit(BETAS, drawn(-0.6, scatter, 6), logarithmic=True)
    # −0.6 log β + 1.645 · 0.2 = log 1 there.
    expected = np.exp(1.645 * scatter / 0.6)
    assert curve.first_below(1.0) == pytest.approx(expected, rel=0.25)
    assert curve.first_below(1e-6) is None
    assert curve.first_below(1e6) == pytest.approx(0.01)


def test_values_as_they_are_and_repeated_betas():
    beta = np.tile(BETAS[::5], 4)
    values = 2 - 0.2 * np.log(beta) + 0.05 * np.random.default_rng(1).normal(size=40)
    curve = gp.fit(beta, values, logarithmic=False)
    slope, negative = curve.slope()
    assert slope.value == pytest.approx(-0.2, abs=0.03)
    assert negative > 0.999
    assert curve.scatter() == pytest.approx(0.05, rel=0.4)
    np.testing.assert_allclose(curve.middle, 2 - 0.2 * np.log(curve.beta), atol=0.08)


def test_how_far_trainings_lie_from_their_curve():
    variance, freedom = gp.scatter(BETAS, drawn(-0.6, 0.1, 1))
    assert variance**0.5 == pytest.approx(0.1, rel=0.3)
    assert 40 < freedom < 49
    for beta, values in ((BETAS[:7], np.ones(7)), (BETAS, np.zeros(50))):
        assert gp.scatter(beta, values)[1] == 0


def test_of_few_trainings_the_scatter_is_known_badly_or_not_at_all():
    """A curve may pass through all of eight, with no scatter left; its freedom has to say so."""
    beta, outside = np.geomspace(0.01, 10, 8), 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        values = np.exp(0.1 * random.normal(size=8))
        variance, freedom = gp.scatter(beta, values)
        further = 0.1 * random.normal(size=5)
        side = stats.t.ppf(0.975, freedom) * variance**0.5 if freedom else np.inf
        outside += (abs(further) > side).sum()
    assert outside <= 20  # of 200, at 5 %


def test_too_few_betas_are_refused():
    with pytest.raises(ValueError, match="at least 4 different β are needed, got 3"):
        gp.fit(np.array([1, 2, 3, 3]), np.ones(4), logarithmic=True)


def test_a_constant_is_no_obstacle():
    curve = gp.fit(BETAS, np.full(50, 3.0), logarithmic=True)
    np.testing.assert_allclose(curve.middle, 3, rtol=1e-6)
    assert abs(curve.slope()[0].value) < 1e-6

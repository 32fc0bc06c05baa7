"""The rules of the verdicts, on numbers for which it is known what must come out."""

from functools import partial

import numpy as np
import pytest

from studies.paper.statistics import (
    Correlation,
    Interval,
    rank_correlation,
    ratio,
    ratio_of_trainings,
    trend,
)
from studies.paper.verdicts import (
    CONDITIONAL,
    CONFIRMED,
    REFUTED,
    UNDECIDED,
    above,
    below,
    best,
    collapsed,
    collapsed_where,
    lying_above,
    of_all,
    of_trend,
)

BETAS = np.geomspace(0.01, 10, 20)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (BETAS**-1, CONFIRMED),
        (BETAS, REFUTED),
        (np.random.default_rng(1).normal(size=20), UNDECIDED),
        (-np.log(BETAS) + 2.5 * np.random.default_rng(0).normal(size=20), CONDITIONAL),
        (np.ones(20), UNDECIDED),
        (np.append(np.arange(19.0), np.nan), UNDECIDED),
        (np.full(20, np.nan), UNDECIDED),
    ],
)
def test_a_trend_falls_rises_or_neither(values, word):
    found = trend(values, BETAS)
    assert of_trend(found, -1).word == word
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED, CONDITIONAL: REFUTED}
    assert of_trend(found, 1).word == opposite.get(word, word)


def test_a_trend_needs_eight_values_of_beta():
    for count, word in ((4, UNDECIDED), (7, UNDECIDED), (8, CONFIRMED)):
        beta = np.geomspace(0.01, 10, count)
        assert of_trend(trend(1 / beta, beta), -1).word == word
    # Seeds do not make more of them.
    beta = np.tile(np.geomspace(0.01, 10, 4), 5)
    verdict = of_trend(trend(1 / beta, beta), -1)
    assert verdict == (UNDECIDED, "4 values of β are too few for a trend")


def test_noise_is_hardly_ever_a_trend():
    random = np.random.default_rng(2)
    words = [of_trend(trend(random.normal(size=8), BETAS[:8]), -1).word for _ in range(100)]
    assert words.count(UNDECIDED) >= 97


def test_a_weak_trend_says_so():
    weak = of_trend(Correlation(-0.5, 0.001, 50), -1)
    assert str(weak) == "conditional: it falls, but not throughout"
    assert str(of_trend(Correlation(0.5, 0.001, 50), -1)) == "refuted: it rises instead"


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.5, 0.4, 0.6), CONFIRMED), ((2, 1.5, 3), REFUTED), ((0.9, 0.7, 1.2), UNDECIDED)],
)
def test_a_ratio_below_a_bound(interval, word):
    assert below(Interval(*interval)) == word
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(word, word)
    assert above(Interval(*interval)) == opposite


def test_a_cost_is_excluded_by_the_upper_end_only():
    """At most 5 % more: an interval that begins below that and ends above it shows nothing."""
    assert below(Interval(1.04, 0.98, 1.10), 1.05) == UNDECIDED
    assert below(Interval(1.01, 0.98, 1.04), 1.05) == CONFIRMED
    assert below(Interval(1.2, 1.1, 1.3), 1.05) == REFUTED


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ({"at β = 1": CONFIRMED, "at β = 2": CONFIRMED}, "confirmed"),
        ({"at β = 1": REFUTED}, "refuted"),
        ({}, "undecided"),
        (
            {"at β = 1": CONFIRMED, "at β = 2": REFUTED, "at β = 3": REFUTED},
            "conditional: lowers ρ at β = 1; raises it at β = 2 and 3",
        ),
        (
            {"at β = 1": UNDECIDED, "at β = 2": REFUTED},
            "refuted: raises it at β = 2; cannot be told at β = 1",
        ),
        (
            {"at β = 1": UNDECIDED, "at β = 2": CONFIRMED},
            "undecided: lowers ρ at β = 2; cannot be told at β = 1",
        ),
        (
            {"along direction 1": CONFIRMED, "along direction 2": CONDITIONAL},
            "conditional: lowers ρ along direction 1; holds on the whole, not throughout, along "
            "direction 2",
        ),
        (
            {"along direction 1": UNDECIDED, "along direction 2": CONDITIONAL},
            "undecided: holds on the whole, not throughout, along direction 2; cannot be told "
            "along direction 1",
        ),
        (
            {"along direction 1": CONDITIONAL, "along direction 2": CONDITIONAL},
            "conditional: holds on the whole, not throughout, along directions 1 and 2",
        ),
        (
            {"along direction 1": REFUTED, "along direction 2": CONDITIONAL},
            "conditional: holds on the whole, not throughout, along direction 2; raises it along "
            "direction 1",
        ),
        (
            {"along direction 1": CONFIRMED, "along direction 2": CONFIRMED, "both": REFUTED},
            "conditional: lowers ρ along directions 1 and 2; raises it both",
        ),
        (
            {f"at β = {i}": CONFIRMED for i in range(9)} | {"at β = 9": REFUTED},
            "conditional: lowers ρ in 9 of 10 cases; raises it at β = 9",
        ),
    ],
)
def test_several_cases_say_which_way(cases, said):
    decided = {name: partial(lambda word, _: word, word) for name, word in cases.items()}
    assert str(of_all(decided, "lowers ρ", "raises it")).strip() == said


def test_noise_in_one_of_many_cases_is_no_verdict():
    """50 VAEs in which ρ says nothing of the damage: one in 20 intervals leaves zero out."""
    words = []
    for seed in range(100):
        random = np.random.default_rng(seed)
        ranks = [partial(rank_correlation, *random.normal(size=(2, 40))) for _ in range(50)]
        words.append(of_all({str(i): lying_above(one, 0) for i, one in enumerate(ranks)}).word)
    assert words.count(UNDECIDED) >= 92


def test_the_surest_cases_leave_the_level_to_the_others():
    def case(p):
        return lambda cases: CONFIRMED if p < 0.05 / cases else UNDECIDED

    assert of_all({"a": case(0.01), "b": case(0.04), "c": case(0.02)}).word == CONFIRMED
    assert of_all({"a": case(0.04), "b": case(0.04), "c": case(0.02)}) == (UNDECIDED, "")


@pytest.mark.parametrize(
    ("middle", "word"), [(0.9999, CONFIRMED), (0.992, UNDECIDED), (0.9, REFUTED)]
)
def test_a_step_is_the_best_for_the_median_image(middle, word):
    share = middle + 0.02 * np.random.default_rng(0).normal(size=100)
    if word == CONFIRMED:  # that a few images are far off is no matter
        share = np.where(np.arange(100) < 20, 0.5, np.minimum(share, 1) + 0.0099)
    assert best(share) == word


def test_a_ratio_between_trainings_knows_their_scatter():
    """Two trainings whose images agree closely, of a β at which trainings scatter by half."""
    random = np.random.default_rng(3)
    images = random.gamma(400, 1 / 400, size=3000)
    over_images = ratio(1.3 * images, images * random.gamma(400, 1 / 400, size=3000))
    assert above(over_images) == CONFIRMED
    without, with_mixup = np.exp(0.5 * random.normal(size=(2, 5)))
    between = ratio_of_trainings(1.3 * with_mixup, without)
    assert between is not None
    assert above(between) == UNDECIDED
    assert ratio_of_trainings(with_mixup[:1], without) is None


def test_the_interval_between_trainings_holds_the_truth():
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        a = np.exp(np.log(3) + 0.2 * random.normal(size=5))
        b = np.exp(np.log(2) + 0.1 * random.normal(size=4))
        found = ratio_of_trainings(a, b)
        assert found is not None
        held += found.low <= 1.5 <= found.high
    assert 182 <= held <= 198


def test_a_collapsed_code_is_as_bad_as_a_constant_image():
    errors = np.array([0.02, 0.05, 0.06])
    np.testing.assert_array_equal(collapsed(errors, 0.067), [False, False, True])
    assert not collapsed(errors, None).any()


def test_where_codes_have_collapsed_is_not_always_from_some_beta_on():
    beta = np.array([0.1, 1, 10])
    assert collapsed_where(beta, np.array([False, True, True])) == "from β = 1 on"
    assert collapsed_where(beta, np.array([True, False, True])) == "at β = 0.1 and 10"

"""Claims about mixup, and what trainings and collapsed codes do to them."""

import numpy as np
import pytest

from studies.paper import claims
from studies.paper.mixup import matches, same_beta
from studies.paper.records import Record
from studies.paper.verdicts import CONDITIONAL, CONFIRMED, REFUTED, UNDECIDED
from tests.studies.paper.made import (
    CONFIGURATION,
    MANY,
    THREE,
    VARIANCE,
    archives_of,
    made,
    times,
    trained,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("quick_curves")


def test_mixup_is_matched_by_reconstruction():
    without = made([0.1, 1, 10], reconstruction_error=[[0.1], [0.2], [0.4]])
    mixed = made([0.1], mixup=1.0, reconstruction_error=0.21)
    (match,) = matches(mixed, without)
    assert (match.beta, match.matched_beta, match.mixup) == (0.1, 1, 1)
    assert match.ratios["MSE"].value == pytest.approx(1.05)
    expected = mixed.radius[0].mean() / without.radius[1].mean()
    assert match.ratios["ρ"].value == pytest.approx(expected)
    (match,) = same_beta(mixed, without)
    assert match.matched_beta == 0.1
    assert match.ratios["MSE"].value == pytest.approx(2.1)


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, CONFIRMED), (1, UNDECIDED), (3, REFUTED)])
def test_mixup_and_the_combined_metric(factor, verdict):
    flat = made(MANY)
    lower = times(factor, flat)
    found = verdicts(claims.claims(archives_of(beta=flat, mixup=lower, combined=lower)))
    assert found["mixup lowers ρ, at the same β"] == verdict
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(verdict, verdict)
    assert found["the combined metric has a larger ρ than the flat one"] == opposite


def test_of_one_training_each_nothing_follows_without_their_scatter():
    """Three pairs would all be in order by chance one time in eight."""
    flat = made(MANY).select(THREE)
    lower = times(0.5, flat)
    found = verdicts(claims.claims(archives_of(beta=flat, mixup=lower, combined=lower)))
    assert found["mixup lowers ρ, at the same β"] == UNDECIDED
    assert found["the combined metric has a larger ρ than the flat one"] == UNDECIDED


def test_the_authors_mixup_is_named_where_it_was_trained_once():
    flat = made(MANY)
    lower = times(0.5, flat, vaes=[[beta, 1.0, "code"] for beta in MANY])
    trainings = {"text": trained((3, 3, 3), 0.05)}
    found = claims.claims(archives_of(beta=flat, mixup=lower, trainings=trainings))
    words = {one.text: (one.verdict.word, one.source) for one in found}
    assert words["mixup lowers ρ, at the same β"] == (REFUTED, "Fig. 6")
    theirs = "mixup as in the authors' code lowers ρ, at the same β"
    assert words[theirs] == (CONFIRMED, "extension")
    assert not any(text.startswith("mixup lowers") and "nearest" in text for text in words)


def test_trainings_alone_decide_what_they_can():
    found = verdicts(claims.claims(archives_of(trainings={"text": trained((3, 3, 3), 0.05)})))
    assert found["mixup lowers ρ, at the same β"] == REFUTED


def test_a_collapse_that_mixup_brings_about_is_its_cost_and_no_gain():
    flat = made(MANY, reconstruction_error=0.1)
    at = np.isclose(MANY, 1)
    mixed = times(np.where(at, 1e-3, 3), flat)
    mixed.arrays["reconstruction_error"] = np.where(at, VARIANCE, 0.1)[:, None] * np.ones(40)
    found = {one.text: one for one in claims.claims(archives_of(beta=flat, mixup=mixed))}
    lowered = found["mixup lowers ρ, at the same β"]
    assert lowered.verdict.word == REFUTED
    assert "at β = 1 (collapsed)" in lowered.evidence
    cost = found["mixup costs no reconstruction (at most 5 % more MSE), at the same β"]
    assert "costs more at β = 1" in cost.verdict.which


def test_a_mixture_says_which_way():
    flat = made(MANY)
    mixed = times(np.select([MANY < 0.9, MANY > 1.1], [0.5, 1], 3), flat).select(THREE)
    found = claims.claims(archives_of(beta=flat, mixup=mixed))
    (verdict,) = (one.verdict for one in found if one.text == "mixup lowers ρ, at the same β")
    said = "lowers ρ at β = 0.1; raises it at β = 1; cannot be told at β = 10"
    assert verdict == (CONDITIONAL, said)


def test_nothing_is_matched_with_an_error_that_is_nan():
    without = made([0.1, 1, 10], reconstruction_error=[[np.nan], [0.2], [0.4]])
    (match,) = matches(made([0.1], mixup=1.0, reconstruction_error=0.39), without)
    assert match.matched_beta == 10


def test_a_collapsed_code_is_marked_and_decides_nothing():
    flat = made(MANY, reconstruction_error=np.where(MANY < 9, 0.1, VARIANCE)[:, None])
    mixed = times(np.where(MANY < 9, 0.5, 900), flat)
    found = claims.claims(archives_of(beta=flat, mixup=mixed, combined=flat))
    (claim,) = (one for one in found if one.text == "mixup lowers ρ, at the same β")
    assert claim.verdict.word == CONFIRMED
    assert claim.evidence.endswith("at β = 10 (collapsed)")
    assert "900" in claim.evidence
    (claim,) = (one for one in found if one.text.startswith("the combined metric has a larger ρ"))
    assert "the code of 1 of 9 VAEs has collapsed, left out" in claim.evidence


@pytest.mark.parametrize(
    ("ratios", "scatter", "word"),
    [
        ((0.5, 0.4, 0.6), 0.05, CONFIRMED),
        ((2, 3, 2), 0.05, REFUTED),
        ((0.5, 3, 2), 0.05, CONDITIONAL),
        ((0.9, 1.1, 1), 0.5, UNDECIDED),
    ],
)
def test_verdicts_on_mixup_are_between_trainings(ratios, scatter, word):
    # Over images of one training, all β would be confirmed.
    flat = made([0.1, 1, 10])
    lower = Record(
        flat.arrays | {"eigenvalues": 0.5 * flat["eigenvalues"], "mixup": np.ones(3)}, CONFIGURATION
    )
    trainings = {"text": trained(ratios, scatter, 1), "code": trained((1, 1, 1), 0.5, 3)}
    found = verdicts(claims.claims(archives_of(beta=flat, mixup=lower, trainings=trainings)))
    assert found["mixup lowers ρ, at the same β"] == word
    assert found["mixup as in the authors' code lowers ρ, at the same β"] == UNDECIDED
    # At the same reconstruction, the scatter of trainings is added to that of images.
    nearest = found["mixup lowers ρ, at the nearest MSE of reconstruction"]
    assert nearest == (UNDECIDED if scatter > 0.1 else CONFIRMED)


def test_mixup_that_costs_more_than_five_percent_is_not_confirmed_by_the_lower_end():
    """1.04 with images that leave [0.98, 1.10] open: not shown, where it once counted as shown."""
    random = np.random.default_rng(0)
    without, with_mixup = (np.exp(0.35 * random.normal(size=40)) for _ in range(2))
    with_mixup *= 1.04 * without.mean() / with_mixup.mean()
    flat = made(MANY, reconstruction_error=without)
    mixed = made([1], mixup=1.0, reconstruction_error=with_mixup)
    found = verdicts(claims.claims(archives_of(beta=flat, mixup=mixed)))
    text = "mixup costs no reconstruction (at most 5 % more MSE), at the same β"
    assert found[text] == UNDECIDED

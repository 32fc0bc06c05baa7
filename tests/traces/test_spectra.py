"""Traces and the three entropies, exact and estimated, against their definitions in float64."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import pullback as pb
from pullback.eigen.records import Spectrum
from pullback.traces.spectra import ENTROPY_TOL, bound_entropy, estimate_entropies
from tests.eigen.test_eigsh import HARD, geometric, with_spectrum

NORMALIZATIONS = ["none", "trace", "max"]


def exact_entropy(eigenvalues: Tensor, normalization: str) -> Tensor:
    if eigenvalues.max() == 0:
        return torch.tensor(0.0, dtype=torch.float64)
    scales = {"none": torch.tensor(1.0), "trace": eigenvalues.sum(), "max": eigenvalues.max()}
    p = eigenvalues.double() / scales[normalization]
    return -torch.xlogy(p, p).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", HARD)
def test_exact_where_the_jacobian_is_small(spectrum, dtype):
    eigenvalues = HARD[spectrum].double()
    metric = pb.PullbackMetric(with_spectrum(eigenvalues, 20, 50).to(dtype)[None])
    total = pb.trace(metric)
    torch.testing.assert_close(total.value[0].double(), eigenvalues.sum(), rtol=1e-5, atol=0.0)
    assert total.std_error == 0
    for normalization in NORMALIZATIONS:
        estimate = pb.entropy(metric, normalization)
        expected = exact_entropy(eigenvalues, normalization)
        error = (estimate.value[0] - expected).abs()
        assert error <= 1e-5 * expected.abs() + 1e-5 * eigenvalues.sum().clamp(max=1)
        assert estimate.std_error == 0


def test_a_trace_needs_fewer_steps_than_an_entropy():
    J = with_spectrum(geometric(400, 0.9), 400, 500)[None]
    total = pb.trace(pb.PullbackMetric(J))
    assert 0 < total.std_error <= 1e-3 * total.value
    assert abs(total.value - J.square().sum()) <= 3 * total.std_error


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_estimates_stay_within_their_errors(normalization, ratio):
    eigenvalues = 7 * geometric(150, ratio)
    J = with_spectrum(eigenvalues, 150, 200)
    repeated = pb.PullbackMetric(J.expand(300, 150, 200))
    estimate = pb.entropy(repeated, normalization)
    expected = exact_entropy(eigenvalues, normalization)
    error = (estimate.value - expected).abs()
    assert (error <= 2 * estimate.std_error + 1e-12).double().mean() >= 0.9
    scale = 1.0 if normalization == "trace" else estimate.value.abs().clamp(min=1)
    assert (estimate.std_error <= ENTROPY_TOL * scale).all()

    total = pb.trace(repeated)
    error = (total.value - eigenvalues.sum()).abs()
    assert (error <= 2 * total.std_error + 1e-10).double().mean() >= 0.9


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40), st.integers(0, 60))
def test_bounds_of_an_entropy_from_a_sum_of_squares(numbers, zeros):
    """Whatever numbers share a remainder, their entropy lies between the bounds."""
    shares = torch.tensor(numbers, dtype=torch.float64)
    shares = shares / shares.sum()
    parts, most = 1 / shares.square().sum(), torch.tensor(float(len(numbers) + zeros))
    one = torch.ones(1, dtype=torch.float64)
    spectrum = Spectrum(one.unsqueeze(0), one, one, parts[None], most.double()[None])
    least, largest = bound_entropy(spectrum, factor=1.0)
    entropy = -torch.xlogy(shares, shares).sum()
    assert least - 1e-9 <= entropy <= largest + 1e-9
    assert largest <= most.log() + 1e-9


def test_the_largest_entropy_of_a_sum_of_squares_is_attained():
    """By one large share and equal others."""
    shares = torch.tensor([0.6] + [0.05] * 8, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    parts = 1 / shares.square().sum()
    spectrum = Spectrum(one.unsqueeze(0), one, one, parts[None], 9 * one)
    _, largest = bound_entropy(spectrum, factor=1.0)
    torch.testing.assert_close(largest[0], -torch.xlogy(shares, shares).sum())


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8),
    st.floats(1e-6, 10.0),
    st.floats(0.0, 2.0),
    st.floats(-1.0, 1.0),
)
@example([0.5, 0.25], 4.0, 1.0, -0.75)  # the largest lies between the ends
def test_an_error_of_the_remainder_shows_in_all_entropies(values, remainder, error, place):
    # Also where an entropy is at its largest as a function of the remainder.
    ones = torch.ones(2, dtype=torch.float64)
    true = max(0.0, remainder * (1 + place * error))
    spectrum = Spectrum(
        torch.tensor(values, dtype=torch.float64).sort(descending=True).values.expand(2, -1),
        torch.tensor([remainder, true], dtype=torch.float64),
        torch.tensor([remainder * error, 0.0], dtype=torch.float64),
        ones,
        ones,
    )
    for estimate in estimate_entropies(spectrum).values():
        found, exact = estimate.value
        assert (found - exact).abs() <= 1.001 * estimate.std_error[0] + 1e-12 * exact.abs()


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_batch_shapes(batch):
    J = torch.randn(*batch, 4, 9, dtype=torch.float64)
    metric = pb.PullbackMetric(J)
    torch.testing.assert_close(pb.trace(metric).value, J.square().sum((-1, -2)))
    estimate = pb.entropy(metric, "none")
    assert estimate.value.shape == estimate.std_error.shape == batch


def test_the_maximally_mixed_state_has_the_logarithm_of_its_rank():
    metric = pb.PullbackMetric(torch.eye(6)[None])
    torch.testing.assert_close(pb.entropy(metric).value, torch.tensor([6.0]).log())
    torch.testing.assert_close(pb.entropy(metric, "max").value, torch.zeros(1), atol=1e-6, rtol=0)


def test_what_is_not_accepted():
    metric = pb.PullbackMetric(torch.rand(2, 3, 4))
    with pytest.raises(
        ValueError, match="normalization='sum' is not one of 'none', 'trace', 'max'"
    ):
        pb.entropy(metric, "sum")
    with pytest.raises(TypeError, match="expected a LinearOperator, got Tensor; wrap it with"):
        pb.trace(torch.eye(3))

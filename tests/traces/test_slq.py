"""Stochastic Lanczos quadrature and the entropies from it, against dense spectra."""

import dataclasses

import pytest
import torch
from linear_operator.operators import DiagLinearOperator, to_linear_operator

import pullback as pb
from pullback.traces import (
    EXP,
    INVERSE,
    LOG,
    SQRT,
    XLOGX,
    QuadratureWarning,
    quadratic_form,
    trace_of_function,
)
from tests.eigen.test_eigsh import HARD, geometric, with_spectrum
from tests.traces.conftest import bounds
from tests.traces.test_estimators import DTYPES, N, generator, symmetric
from tests.traces.test_quadrature import padded
from tests.traces.test_spectra import NORMALIZATIONS, exact_entropy


@pytest.mark.parametrize("f", [XLOGX, SQRT, torch.square])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99])
def test_within_two_standard_errors(ratio, f):
    eigenvalues = geometric(N, ratio)
    operator = DiagLinearOperator(eigenvalues.expand(300, N))
    estimate = trace_of_function(operator, f, probes=8, steps=12)
    error = estimate.value - f(eigenvalues).sum()
    assert (error.abs() <= 2 * estimate.std_error).double().mean() >= 0.9
    assert error.mean().abs() <= 4 * error.std() / 300**0.5 + 1e-3
    if f is not torch.square:
        lower, upper = bounds(estimate)
        assert (lower <= estimate.value).all()
        assert (estimate.value <= upper).all()


@pytest.mark.filterwarnings("ignore::pullback.traces.QuadratureWarning")
@pytest.mark.parametrize("f", [LOG, INVERSE, torch.rsqrt, torch.abs, EXP])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_two_standard_errors_where_no_rule_gives_two_bounds(dtype, condition, f):
    # At default settings, whose steps do not reach the small eigenvalues.
    eigenvalues = geometric(100, condition ** (-1 / 99)).to(dtype)
    estimate = trace_of_function(DiagLinearOperator(eigenvalues.expand(40, 100)), f)
    truth = f(eigenvalues.double()).sum()
    error = (estimate.value - truth).abs()
    assert (error <= 2 * estimate.std_error + 1e-5 * truth.abs()).double().mean() >= 0.9
    # It is said aloud where nothing is known, and only there.
    assert (estimate.std_error.isinf()).any() <= (f in (INVERSE, torch.rsqrt, LOG))
    if condition == 1e2:
        assert estimate.std_error.max() < 0.1 * truth.abs()


def test_an_error_that_is_not_known_is_infinite_and_said():
    eigenvalues = geometric(100, 1e-8 ** (1 / 99))
    A = DiagLinearOperator(eigenvalues)
    with pytest.warns(QuadratureWarning, match="not known for 1 of 1 samples: 20 Lanczos steps"):
        assert trace_of_function(A, INVERSE).std_error == torch.inf
    with pytest.warns(QuadratureWarning, match="not known for 1 of 1 samples: 3 Lanczos steps"):
        assert quadratic_form(A, torch.ones_like(eigenvalues), torch.cos, 3).std_error == torch.inf
    # An interval gives both bounds, and as many steps as there are eigenvalues no error.
    bounded = trace_of_function(A, INVERSE, interval=(1e-8, None))
    assert (bounded.value - eigenvalues.reciprocal().sum()).abs() <= 2 * bounded.std_error
    assert bounded.std_error.isfinite()
    assert trace_of_function(A, INVERSE, probes=100, steps=100).std_error == 0


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99])
def test_entropies_within_two_standard_errors(ratio, normalization):
    eigenvalues = 3 * geometric(N, ratio)
    operator = DiagLinearOperator(eigenvalues.expand(300, N))
    estimate = pb.entropy(operator, normalization, probes=10, steps=15)
    error = estimate.value - exact_entropy(eigenvalues, normalization)
    assert (error.abs() <= 2 * estimate.std_error).double().mean() >= 0.9
    # Trace and Σ λ log λ come from the same probes: without their covariance it would be far more.
    assert estimate.std_error.mean() <= 1.5 * error.std()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", HARD)
def test_unit_vectors_leave_no_error_and_bound_the_truth(spectrum, dtype):
    eigenvalues = padded(HARD[spectrum])
    A = to_linear_operator(symmetric(eigenvalues).to(dtype))
    for f in (XLOGX, SQRT):
        truth = f(eigenvalues).sum()
        for steps in (3, 20):
            estimate = trace_of_function(A, f, probes=20, steps=steps)
            lower, upper = bounds(estimate)
            assert lower <= truth <= upper
            assert abs(estimate.value - truth) <= 2 * estimate.std_error + (upper - lower)
    for normalization in NORMALIZATIONS:
        estimate = pb.entropy(A, normalization, probes=20, steps=20)
        expected = exact_entropy(eigenvalues, normalization)
        assert (estimate.value - expected).abs() <= 1e-5 * expected.abs() + 1e-5
        assert estimate.std_error == 0
        if normalization == "max":
            assert estimate.lower is None
        else:
            lower, upper = bounds(estimate)
            assert lower <= expected <= upper


def test_a_log_determinant_between_bounds():
    # As of a kernel matrix with a known noise variance.
    eigenvalues = 0.1 + geometric(N, 0.8)
    A = to_linear_operator(symmetric(eigenvalues))
    truth = eigenvalues.log().sum()
    for steps in (4, 8, 16):
        estimate = trace_of_function(A, LOG, probes=N, steps=steps, interval=(0.1, None))
        lower, upper = bounds(estimate)
        assert lower <= truth <= upper
    assert upper - lower < 1e-6
    assert trace_of_function(A, LOG, probes=N, steps=4).lower == -torch.inf


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_operators(n):
    A = DiagLinearOperator(torch.arange(1.0, n + 1))
    estimate = trace_of_function(A, LOG)
    torch.testing.assert_close(estimate.value, torch.arange(1.0, n + 1).log().sum())
    assert estimate.std_error == 0
    zero = pb.entropy(DiagLinearOperator(torch.zeros(2, 30)))
    assert torch.equal(zero.value, torch.zeros(2))
    assert torch.equal(zero.std_error, torch.zeros(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deflation_lowers_the_error(dtype):
    eigenvalues = torch.cat([torch.tensor([50.0, 20.0, 10.0]), geometric(40, 0.9)])
    J = with_spectrum(eigenvalues, 43, 60).to(dtype).expand(50, 43, 60)
    metric = pb.PullbackMetric(J)
    truth = SQRT(eigenvalues).sum()
    pairs = pb.eigsh(metric, 3)
    plain = trace_of_function(metric, SQRT, probes=8, steps=15)
    deflated = trace_of_function(metric, SQRT, probes=8, steps=15, deflate=pairs)
    assert deflated.std_error.mean() < 0.7 * plain.std_error.mean()
    for estimate in (plain, deflated):
        error = (estimate.value - truth).abs()
        assert (error <= 2 * estimate.std_error).double().mean() >= 0.9
    for normalization in NORMALIZATIONS:
        sampled = pb.entropy(metric, normalization, method="slq")
        error = (sampled.value - exact_entropy(eigenvalues, normalization)).abs()
        assert (error <= 2 * sampled.std_error).double().mean() >= 0.9


def test_only_converged_pairs_are_deflated_sample_by_sample():
    J = with_spectrum(geometric(20, 0.7), 20, 30).expand(4, 20, 30)
    metric, truth = pb.PullbackMetric(J), SQRT(geometric(20, 0.7)).sum()
    pairs = pb.eigsh(metric, 3)
    # Wrong pairs do no harm as long as they say that they are not converged.
    spoilt = torch.randn_like(pairs.vectors)
    converged = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    mixed = dataclasses.replace(
        pairs,
        vectors=torch.where(converged.unsqueeze(-2), pairs.vectors, spoilt),
        values=torch.where(converged, pairs.values, 99.0),
        converged=converged,
    )
    estimate = trace_of_function(metric, SQRT, probes=30, steps=30, deflate=mixed)
    torch.testing.assert_close(estimate.value, truth.expand(4), rtol=1e-6, atol=0.0)
    lower, upper = bounds(estimate)
    assert (lower <= truth).all()
    assert (truth <= upper).all()
    errors = trace_of_function(metric, SQRT, probes=10, steps=30, deflate=mixed).std_error
    assert errors[0] < errors[1] < errors[3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.01, 0.5, -1.0])
def test_pairs_of_another_operator_are_refused(factor, dtype):
    J = with_spectrum(geometric(20, 0.7), 20, 30).to(dtype)
    A = to_linear_operator(J.mT @ J)
    for tol in (1e-6, 0.3):
        pairs = pb.eigsh(A, 3, tol=tol)
        assert trace_of_function(A, SQRT, deflate=pairs).value > 0
        with pytest.raises(ValueError, match="deflate holds eigenpairs of another operator"):
            trace_of_function(factor * A, EXP, deflate=pairs)


def test_functions_that_are_not_elementwise():
    A, v = DiagLinearOperator(torch.ones(30)), torch.ones(30)
    for f in (torch.sum, lambda _: 1.0, lambda x: x[..., :1]):
        for call in (lambda f=f: trace_of_function(A, f), lambda f=f: quadratic_form(A, v, f)):
            with pytest.raises(TypeError, match=r"f must be elementwise: of a tensor of shape"):
                call()


def test_everything_deflated_is_exact():
    J = with_spectrum(geometric(6, 0.5), 6, 6)[None]
    metric = pb.PullbackMetric(J)
    estimate = trace_of_function(metric, SQRT, probes=3, deflate=pb.eigsh(metric, 6))
    torch.testing.assert_close(estimate.value[0], SQRT(geometric(6, 0.5)).sum())
    assert estimate.std_error == 0


def test_the_seed_decides_and_the_batch_size_does_not(monkeypatch):
    J = torch.randn(6, 60, 80, generator=generator(), dtype=torch.float64)
    whole = pb.entropy(pb.PullbackMetric(J), generator=generator(3), method="slq", probes=7)
    monkeypatch.setattr("pullback.traces.probes.max_block", lambda _: 3 * 80)
    g = generator(3)
    parts = [
        pb.entropy(pb.PullbackMetric(part), generator=g, method="slq", probes=7)
        for part in J.split([1, 3, 2])
    ]
    for name in ("value", "std_error", "lower", "upper"):
        joined = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, name))
    nested = pb.entropy(
        pb.PullbackMetric(J.unflatten(0, (2, 3))), generator=generator(3), method="slq", probes=7
    )
    torch.testing.assert_close(nested.value.flatten(), whole.value)


def test_what_is_not_accepted():
    A = DiagLinearOperator(torch.ones(2, 30))
    with pytest.raises(ValueError, match="probes=1 must be at least 2"):
        trace_of_function(A, LOG, probes=1)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        trace_of_function(A, LOG, steps=0)
    with pytest.raises(TypeError, match="deflate must be EigenPairs, got list"):
        trace_of_function(A, LOG, deflate=[1])  # type: ignore[arg-type]
    pairs = pb.eigsh(pb.PullbackMetric(torch.rand(2, 3, 20)), 2)
    with pytest.raises(ValueError, match=r"\(2, 30, 'k'\), got torch\.float32 \(2, 20, 2\)"):
        trace_of_function(A, LOG, deflate=pairs)
    with pytest.raises(ValueError, match="method='lanczos' is not one of 'auto', 'slq'"):
        pb.entropy(A, method="lanczos")
    with pytest.raises(ValueError, match="sample 1 has a Ritz value of -1"):
        pb.entropy(DiagLinearOperator(torch.tensor([[1.0] * 30, [-1.0] * 30])))

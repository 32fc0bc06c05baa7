"""Estimates of operators of any size, and of zero: right, or refused by name."""

import pytest
import torch
from linear_operator.operators import DenseLinearOperator, DiagLinearOperator, ZeroLinearOperator

import pullback as pb
from pullback.traces import (
    SQRT,
    Estimate,
    hutch_plus_plus,
    hutchinson,
    quadratic_form,
    trace_of_function,
    xtrace,
)
from tests.traces.conftest import bounds
from tests.traces.test_estimators import symmetric

N = 40
EIGENVALUES = 0.7 ** torch.arange(N).double() + 0.01
TRACES = [hutchinson, hutch_plus_plus, xtrace]
# Estimates of Σλ, of Σ√λ and of an entropy, by the exponent with which they grow.
ESTIMATES = [
    *((estimator, 1.0) for estimator in TRACES),
    (lambda A: trace_of_function(A, SQRT), 0.5),
    (lambda A: pb.entropy(A), 0.0),
]
SIZES = [
    *((torch.float32, order) for order in (-37, 20, 36)),
    *((torch.float64, order) for order in (-140, 140)),
]


def scaled(dtype: torch.dtype, order: int) -> DenseLinearOperator:
    return DenseLinearOperator((symmetric(EIGENVALUES) * 10.0**order).to(dtype))


@pytest.mark.parametrize(("dtype", "order"), SIZES)
@pytest.mark.parametrize(("estimate", "power"), ESTIMATES)
def test_the_same_at_any_scale(estimate, power, dtype, order):
    reference, found = estimate(scaled(torch.float64, 0)), estimate(scaled(dtype, order))
    factor = 10.0 ** (-power * order)
    rounding = 1e-3 if dtype == torch.float32 else 1e-8
    for one, other in ((found.value, reference.value), (found.std_error, reference.std_error)):
        torch.testing.assert_close(
            one.double() * factor, other, rtol=rounding, atol=rounding * reference.value.item()
        )


@pytest.mark.parametrize(("dtype", "order"), SIZES)
@pytest.mark.parametrize("steps", [5, 20, N])
def test_a_form_at_any_scale(steps, dtype, order):
    d = torch.rand(30) + 0.1
    A = DiagLinearOperator((d.double() * 10.0**order).to(dtype))
    estimate = quadratic_form(A, torch.ones(30, dtype=dtype), SQRT, steps)
    truth = A._diag.double().sqrt().sum()
    lower, upper = bounds(estimate)
    assert lower.double() <= truth <= upper.double()
    rounding = 1e-5 if dtype == torch.float32 else 1e-8
    assert (estimate.value.double() - truth).abs() <= estimate.std_error + rounding * truth


@pytest.mark.parametrize("order", [-200, 300])
@pytest.mark.parametrize(("estimate", "_power"), ESTIMATES)
def test_what_squares_cannot_hold(estimate, _power, order):
    with pytest.raises(ValueError, match=r"sample 0, about \de[+-]\d+, have squares outside"):
        estimate(scaled(torch.float64, order))
    v = torch.ones(N, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sample 0, about .*, have squares outside"):
        quadratic_form(scaled(torch.float64, order), v, SQRT)


def test_a_trace_that_the_dtype_cannot_hold():
    A = DiagLinearOperator(torch.full((N,), 1e37))
    for estimator in TRACES:
        with pytest.raises(ValueError, match=r"estimate up to 4\.0e\+38 exceeds the range"):
            estimator(A, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero(dtype):
    v = torch.ones(2, N, dtype=dtype)
    A = ZeroLinearOperator(2, N, N, dtype=dtype, device=v.device)
    zeros: list[Estimate] = [estimate(A) for estimate, _ in ESTIMATES]
    for zero in (*zeros, pb.trace(A), quadratic_form(A, v, SQRT)):
        assert zero.value.shape == (2,)
        assert zero.value.dtype == dtype
        assert not zero.value.any()
        assert not zero.std_error.any()

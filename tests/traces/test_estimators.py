"""Hutchinson, Hutch++ and XTrace: unbiased, with errors that hold, exact where they should be."""

import itertools

import numpy as np
import pytest
import torch
from linear_operator.operators import (
    DenseLinearOperator,
    DiagLinearOperator,
    to_linear_operator,
)
from torch import Tensor

import pullback as pb
from pullback.sampling import SampleStreams
from pullback.traces import estimators, hutch_plus_plus, hutchinson, xtrace
from pullback.traces.probes import Complement, student
from tests.eigen.test_eigsh import geometric

ESTIMATORS = [hutchinson, hutch_plus_plus, xtrace]
LEAST = {hutchinson: 2, hutch_plus_plus: 3, xtrace: 4}
DTYPES = [torch.float32, torch.float64]
N = 60


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues and random eigenvectors, float64."""
    n = eigenvalues.shape[-1]
    g = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    return (U * eigenvalues.double()) @ U.mT


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SPECTRA = {
    "ratio 0.5": geometric(N, 0.5),
    "ratio 0.9": geometric(N, 0.9),
    "ratio 0.99": geometric(N, 0.99),
    "algebraic": torch.arange(1, N + 1, dtype=torch.float64) ** -2,
    "rank 1": geometric(N, 0.0),
    "indefinite": torch.linspace(-1, 2, N, dtype=torch.float64),
}


@pytest.mark.parametrize("probes", [6, 20])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unbiased_and_within_two_standard_errors(estimator, spectrum, probes):
    # Each sample of a batch has its own seed; the methods do not care for the eigenvectors.
    eigenvalues = SPECTRA[spectrum]
    estimate = estimator(DiagLinearOperator(eigenvalues.expand(300, N)), probes)
    error = estimate.value - eigenvalues.sum()
    rounding = 1e-12 * eigenvalues.abs().sum()
    assert (error.abs() <= 2 * estimate.std_error + rounding).double().mean() >= 0.9
    assert error.mean().abs() <= 4 * error.std() / 300**0.5 + rounding
    # Nor are the errors claimed larger than they need be.
    widest = 2.5 * student(1 if probes == 6 else 6)
    assert estimate.std_error.square().mean() ** 0.5 <= widest * error.std() + rounding


@pytest.mark.parametrize("probes", [4, 6, 8, 10, 20, 50])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_errors_hold_where_the_sketch_only_just_holds_a_step(estimator, more, probes):
    # As many large eigenvalues as the sketch of XTrace has vectors, one fewer, and one more.
    eigenvalues = torch.full((N,), 1e-3, dtype=torch.float64)
    eigenvalues[: probes // 2 + more] = 1.0
    estimate = estimator(DiagLinearOperator(eigenvalues.expand(300, N)), probes)
    error = (estimate.value - eigenvalues.sum()).abs()
    assert (error <= 2 * estimate.std_error).double().mean() >= 0.9


def test_what_a_vector_changes_in_the_estimate_of_another():
    n, m = 12, 4
    A = symmetric(torch.linspace(-1, 3, n))
    omega = torch.randn(n, m, dtype=torch.float64)
    omega = omega * n**0.5 / omega.norm(dim=0)

    def estimate(i: int, without: set[int]) -> Tensor:
        sketched = [j for j in range(m) if j not in without]
        Q = torch.linalg.qr(A @ omega[:, sketched])[0]
        v = omega[:, i] - Q @ (Q.mT @ omega[:, i])
        return (Q.mT @ A @ Q).trace() + (n - len(sketched)) * (v @ A @ v) / (v @ v)

    expected = torch.zeros(m, m, dtype=torch.float64)
    for i, j in itertools.permutations(range(m), 2):
        expected[i, j] = estimate(i, {i}) - estimate(i, {i, j})
    Q, R = torch.linalg.qr(A @ omega)
    H, W, S = Q.mT @ A @ Q, Q.mT @ omega, estimators._left_out_directions(R, 1e-16)
    X = W - S * (S * W).sum(0)
    raw = (W * R - 2 * X * R + X * (H @ X)).sum(0)
    scales = (n - m + 1) / (n - X.square().sum(0))
    directions, vectors = (S, H @ S, (S * (H @ S)).sum(0)), (W, R, X, H @ X)
    torch.testing.assert_close(
        estimators._changes(n, directions, vectors, raw, scales), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("locked", [0, 3])
def test_the_variance_of_a_form_is_twice_the_mean_squared_residual(locked):
    n = 7
    A = symmetric(torch.linspace(-1, 2, n))
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    complement = Complement(DenseLinearOperator(A), Q[:, :locked])
    free = n - locked
    assert complement.dimension == free
    streams = SampleStreams(1, generator())
    # Fewer probes than N at a time are random.
    z = torch.cat([next(complement.probes(streams, n - 1)) for _ in range(5000)], -1)
    restricted = Q[:, locked:].mT @ A @ Q[:, locked:]
    torch.testing.assert_close(z.norm(dim=0), torch.full_like(z[0], free**0.5))
    image = Q[:, locked:] @ restricted @ (Q[:, locked:].mT @ z)
    forms = (z * image).sum(0)
    squared = restricted.square().sum(), restricted.trace().square()
    exact = 2 * (free * squared[0] - squared[1]) / (free + 2)
    residuals = (image - forms / free * z).square().sum(0)
    torch.testing.assert_close(forms.var(), exact, rtol=0.05, atol=0.0)
    torch.testing.assert_close(2 * residuals.mean(), exact, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_exact_on_low_rank(estimator, rank, dtype):
    eigenvalues = torch.zeros(N)
    eigenvalues[:rank] = torch.tensor([3.0, -2.0, 1.0, 0.5])[:rank]
    estimate = estimator(to_linear_operator(symmetric(eigenvalues).to(dtype)), 15)
    eps = torch.finfo(dtype).eps
    assert estimate.value.dtype == dtype
    assert abs(estimate.value - eigenvalues.sum()) <= 100 * N**0.5 * eps
    assert estimate.std_error <= 1000 * eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_exact_with_as_many_probes_as_dimensions(estimator, n, dtype):
    A = symmetric(torch.linspace(-1, 3, n), seed=n).to(dtype)
    for probes in (max(n, LEAST[estimator]), 40):
        estimate = estimator(to_linear_operator(A), probes)
        torch.testing.assert_close(estimate.value, A.trace())
        assert estimate.std_error == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_exact_on_multiples_of_the_identity(estimator, dtype):
    estimate = estimator(DiagLinearOperator(torch.full((N,), 3.0, dtype=dtype)), 8)
    eps = torch.finfo(dtype).eps
    assert abs(estimate.value - 3 * N) <= 100 * N * eps
    assert estimate.std_error <= 100 * N * eps


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_float32_is_as_good_as_its_products(estimator):
    eigenvalues = geometric(N, 0.5)
    A = symmetric(eigenvalues)
    double = estimator(to_linear_operator(A), 20)
    single = estimator(to_linear_operator(A.float()), 20)
    torch.testing.assert_close(single.value.double(), double.value, rtol=1e-4, atol=0.0)


def test_the_sketch_pays_where_the_spectrum_decays():
    operator = DiagLinearOperator(geometric(N, 0.7).expand(100, N))
    errors = [estimator(operator, 24).std_error.mean() for estimator in ESTIMATORS]
    assert errors[0] > 4 * errors[1] > 8 * errors[2]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_seed_decides_and_the_batch_size_does_not(estimator, monkeypatch):
    eigenvalues = torch.rand(6, N, dtype=torch.float64, generator=generator())
    whole = estimator(DiagLinearOperator(eigenvalues), 12, generator(5))
    again = estimator(DiagLinearOperator(eigenvalues), 12, generator(5))
    assert torch.equal(whole.value, again.value)
    g = generator(5)
    # Groups of a few columns make no difference either.
    monkeypatch.setattr("pullback.traces.probes.max_block", lambda _: 5 * N)
    parts = [estimator(DiagLinearOperator(part), 12, g) for part in eigenvalues.split([1, 3, 2])]
    torch.testing.assert_close(torch.cat([part.value for part in parts]), whole.value)
    torch.testing.assert_close(torch.cat([part.std_error for part in parts]), whole.std_error)
    other = estimator(DiagLinearOperator(eigenvalues), 12, generator(6))
    assert not torch.equal(whole.value, other.value)


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_batch_shape(estimator, batch):
    J = torch.randn(*batch, 3, 30, dtype=torch.float64)
    estimate = estimator(pb.PullbackMetric(J), 12)
    exact = J.square().sum((-1, -2))
    assert estimate.value.shape == estimate.std_error.shape == batch
    assert ((estimate.value - exact).abs() <= 4 * estimate.std_error + 1e-10 * exact).all()


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_methods_of_trace(method):
    A = to_linear_operator(symmetric(geometric(N, 0.5)))
    estimator = dict(zip(["hutchinson", "hutch++", "xtrace"], ESTIMATORS, strict=True))[method]
    assert torch.equal(
        pb.trace(A, generator(1), method, 9).value, estimator(A, 9, generator(1)).value
    )
    if method == "xtrace":
        assert torch.equal(pb.trace(A).value, xtrace(A).value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_not_accepted(estimator):
    A = DiagLinearOperator(torch.ones(5))
    least = LEAST[estimator]
    with pytest.raises(ValueError, match=f"probes={least - 1} must be at least {least}"):
        estimator(A, least - 1)
    for probes in (4.0, True, "4"):
        with pytest.raises(TypeError, match="probes must be an integer, got"):
            estimator(A, probes)
    assert estimator(A, np.int64(4)).value.item() == pytest.approx(5, rel=1e-6)
    with pytest.raises(TypeError, match="expected a LinearOperator, got Tensor; wrap it"):
        estimator(torch.eye(3))
    with pytest.raises(TypeError, match=r"expected a LinearOperator, got str$"):
        estimator("A")
    with pytest.raises(ValueError, match=r"shape \(\*batch, N, N\), got \(2, 3, 4\)"):
        estimator(to_linear_operator(torch.rand(2, 3, 4)))
    with pytest.raises(TypeError, match=r"must be float32 or float64, got float16"):
        estimator(DiagLinearOperator(torch.ones(5).half()))
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got 3"):
        estimator(A, generator=3)
    bad = torch.ones(3, 20)
    bad[1, 4] = torch.nan
    with pytest.raises(ValueError, match="products are NaN or infinite in sample 1"):
        estimator(DiagLinearOperator(bad), 6)
    with pytest.raises(ValueError, match="method='qr' is not one of 'auto', 'hutchinson', 'hutch"):
        pb.trace(A, method="qr")

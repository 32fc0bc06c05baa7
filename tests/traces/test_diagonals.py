"""Estimates of a diagonal: unbiased, with errors that hold for each entry, exact where they can."""

import pytest
import torch
from linear_operator.operators import DenseLinearOperator, to_linear_operator
from torch import Tensor, nn

import pullback as pb
from pullback.traces import diagonal
from tests.conftest import SmoothEncoder
from tests.eigen.test_eigsh import geometric
from tests.traces.test_estimators import generator, symmetric

DTYPES = [torch.float32, torch.float64]
N, ROWS, RUNS = 60, 50, 200
SPECTRA = {
    "ratio 0.5": geometric(ROWS, 0.5),
    "ratio 0.9": geometric(ROWS, 0.9),
    "flat": torch.ones(ROWS, dtype=torch.float64),
    "algebraic": torch.arange(1, ROWS + 1, dtype=torch.float64) ** -2,
    "rank 1": geometric(ROWS, 0.0),
}


def with_root(eigenvalues: Tensor) -> Tensor:
    """J ``(ROWS, N)`` such that JᵀJ has these eigenvalues, float64."""
    left = torch.linalg.qr(torch.randn(ROWS, ROWS, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0]
    return left * eigenvalues.sqrt() @ right[:ROWS]


def operators(kind: str, eigenvalues: Tensor) -> pb.PullbackMetric | DenseLinearOperator:
    """RUNS times the same one, each of which gets random vectors of its own."""
    J = with_root(eigenvalues)
    if kind == "metric":
        return pb.PullbackMetric(J.expand(RUNS, ROWS, N))
    if kind == "weighted":
        M = symmetric(torch.linspace(0, 2, ROWS, dtype=torch.float64), seed=7)
        return pb.PullbackMetric(J.expand(RUNS, ROWS, N), (M + M.mT) / 2)
    return DenseLinearOperator((J.mT @ J).expand(RUNS, N, N))


@pytest.mark.parametrize("probes", [8, 32])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["metric", "weighted", "other"])
def test_unbiased_and_within_two_standard_errors(kind, spectrum, probes):
    operator = operators(kind, SPECTRA[spectrum])
    estimate = diagonal(operator, probes, generator(1))
    exact = operator[0].to_dense().diagonal()
    rounding = 1e-12 * exact.max()
    error = estimate.value - exact
    assert estimate.value.shape == estimate.std_error.shape == (RUNS, N)
    assert (error.abs() <= 2 * estimate.std_error + rounding).double().mean() >= 0.9
    bias, scatter = error.mean(0), error.std(0)
    assert (bias.abs() <= 4.5 * scatter / RUNS**0.5 + rounding).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["metric", "weighted", "other"])
def test_exact_with_enough_probes(kind, dtype):
    operator = operators(kind, SPECTRA["ratio 0.9"])[:3].to(dtype)
    exact = operator.to_dense().double().diagonal(dim1=-2, dim2=-1)
    estimate = diagonal(operator, ROWS if kind != "other" else N)
    assert (estimate.std_error == 0).all()
    assert estimate.value.dtype == dtype
    rtol = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(estimate.value.double(), exact, rtol=rtol, atol=0.0)


def test_a_spectrum_that_decays_is_nearly_exact_with_few_probes():
    operator = operators("metric", SPECTRA["ratio 0.5"])
    estimate = diagonal(operator, 32)
    exact = operator[0].to_dense().diagonal()
    relative = (estimate.value - exact).abs() / exact
    assert relative.max() < 0.2
    # It is far better than the mean of as many squares.
    assert relative.square().mean().sqrt() < 0.02 * (2 / 32) ** 0.5


@pytest.mark.parametrize("kind", ["metric", "weighted", "other"])
def test_eigenpairs_that_are_known(kind):
    operator = operators(kind, torch.cat([torch.full((4,), 100.0), geometric(ROWS - 4, 0.9)]))[:50]
    pairs = pb.eigsh(operator, 4)
    without, deflated = (diagonal(operator, 6, deflate=d) for d in (None, pairs))
    exact = operator[0].to_dense().diagonal()
    error = (deflated.value - exact).abs()
    assert (error <= 2 * deflated.std_error).double().mean() >= 0.9
    assert error.mean() < 0.5 * (without.value - exact).abs().mean()
    other = operators(kind, SPECTRA["flat"])[:50]
    with pytest.raises(ValueError, match="eigenpairs of another operator"):
        diagonal(other, 6, deflate=pairs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("with_decoder", [True, False])
def test_an_encoder(with_decoder, captured, dtype):
    net, x = SmoothEncoder(80, 20, 40, dtype=dtype), torch.rand(2, 3, 80, dtype=dtype)
    decoder = nn.Linear(20, 100, dtype=dtype) if with_decoder else None

    def branching(x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return net(x + shift) if captured or bool(x.isfinite().all()) else net(0 * x)

    def decode(z: Tensor, _: Tensor) -> Tensor:
        assert decoder is not None
        return decoder(z)

    encoder, shift = pb.as_map(branching, "mean_logvar"), torch.rand(2, 3, 80, dtype=dtype)
    metric = pb.expected_metric(
        encoder, x, decode if with_decoder else None, given=(shift,), batch_dims=2
    )
    estimate = diagonal(metric, 16)
    exact = metric.to_dense().double().diagonal(dim1=-2, dim2=-1)
    error = (estimate.value - exact).abs()
    assert (error <= 2 * estimate.std_error).double().mean() >= 0.9
    single = pb.expected_metric(
        encoder, x[0, 0], decode if with_decoder else None, given=(shift[0, 0],), batch_dims=0
    )
    # The same whatever the batch it comes in.
    torch.testing.assert_close(diagonal(single, 16).value, estimate.value[0, 0])


def test_a_zero_metric_and_what_is_refused():
    zero = diagonal(pb.PullbackMetric(torch.zeros(2, 30, 40)), 12)
    assert (zero.value == 0).all()
    assert (zero.std_error == 0).all()
    zero = diagonal(DenseLinearOperator(torch.zeros(2, 40, 40)), 12)
    assert (zero.value == 0).all()
    with pytest.raises(TypeError, match="expected a LinearOperator, got Tensor"):
        diagonal(torch.eye(3))
    with pytest.raises(ValueError, match="probes=4 must be at least 5"):
        diagonal(to_linear_operator(torch.eye(9)), 4)
    with pytest.raises(TypeError, match="deflate must be EigenPairs"):
        diagonal(to_linear_operator(torch.eye(9)), 6, deflate=torch.eye(9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"NaN or infinite in sample 0"):
        diagonal(DenseLinearOperator(torch.full((1, 9, 9), torch.nan)), 6)

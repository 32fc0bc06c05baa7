"""eigsh of operators that are no pullback metrics, against scipy and dense."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from linear_operator.operators import (
    DenseLinearOperator,
    DiagLinearOperator,
    IdentityLinearOperator,
    ToeplitzLinearOperator,
    ZeroLinearOperator,
)

import pullback as pb
from pullback.eigen import METHODS
from tests.eigen.test_eigsh import geometric, with_spectrum


def psd(ratio: float, n: int, seed: int = 0) -> torch.Tensor:
    J = with_spectrum(geometric(n, ratio), n, n, seed)
    return J.mT @ J


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_any_positive_semi_definite_operator(method, dtype):
    G = torch.stack([psd(0.5, 80), psd(0.8, 80, 1)]).to(dtype)
    pairs = pb.eigsh(DenseLinearOperator(G), 4, method)
    assert pairs.converged.all()
    values, vectors = pairs.values.double(), pairs.vectors.double()
    exact = torch.stack([geometric(4, 0.5), geometric(4, 0.8)])
    torch.testing.assert_close(values, exact, rtol=1e-5, atol=0)
    residuals = (G.double() @ vectors - vectors * values.unsqueeze(-2)).norm(dim=-2)
    noise = 100 * torch.finfo(dtype).eps
    assert ((residuals - pairs.residual_norms).abs() <= 0.01 * residuals + noise).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_residuals_are_true_where_small_eigenvalues_of_a_weight_are_lost(block, weighted):
    # Rounding leaves nothing of some vectors' lengths in the inner product of the weight.
    G = torch.stack([psd(0.1, 29, seed) for seed in range(20)]).float()
    identity = torch.eye(29).expand_as(G)
    operator = pb.PullbackMetric(identity, G) if weighted else DenseLinearOperator(G)
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        pairs = pb.eigsh(operator, 3, "golub-kahan", generator=g, block=block)
        assert pairs.converged.all()
        values, vectors = pairs.values.double(), pairs.vectors.double()
        residuals = (G.double() @ vectors - vectors * values.unsqueeze(-2)).norm(dim=-2)
        told = torch.maximum(1.01 * pairs.residual_norms.double(), 1e-4 * values)
        assert (residuals <= told + 8 * torch.finfo(G.dtype).eps).all()


def test_a_structured_operator_against_scipy():
    column = 0.9 ** torch.arange(300, dtype=torch.float64)
    operator = ToeplitzLinearOperator(column)
    pairs = pb.eigsh(operator, 6)
    expected = scipy.sparse.linalg.eigsh(operator.to_dense().numpy(), 6)[0][::-1]
    np.testing.assert_allclose(pairs.values.numpy(), expected, rtol=1e-8)
    assert pairs.vectors.shape == (300, 6)


@pytest.mark.parametrize("which", ["smallest", "both"])
def test_the_other_end_of_an_indefinite_operator(which):
    values = torch.linspace(-3, 5, 90, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(90, 90, dtype=torch.float64))[0]
    pairs = pb.eigsh(DenseLinearOperator(basis * values @ basis.mT), 3, which=which, tol=1e-6)
    expected = values[[2, 1, 0]] if which == "smallest" else values[[89, 88, 0]]
    torch.testing.assert_close(pairs.values, expected, rtol=1e-8, atol=1e-8)
    assert pairs.converged.all()


def test_a_preconditioner():
    n = 200
    diagonal = -torch.linspace(1, 1e4, n, dtype=torch.float64)
    operator = DenseLinearOperator(torch.diag(diagonal) + 0.1 * torch.ones(n, n).double() / n)
    inverse = DiagLinearOperator(-1 / diagonal)
    plain = pb.eigsh(operator, 2, "lobpcg")
    helped = pb.eigsh(operator, 2, "lobpcg", preconditioner=inverse.unsqueeze(0))
    torch.testing.assert_close(helped.values, plain.values, rtol=1e-4, atol=0)
    assert helped.iterations < plain.iterations


def test_what_does_not_go_together():
    operator = DenseLinearOperator(psd(0.5, 30))
    for arguments, message in (
        ({"which": "middle"}, "which='middle' is not one of 'largest', 'smallest', 'both'"),
        ({"which": "both", "method": "dual"}, "which='both' is for method='lanczos', not 'dual'"),
        ({"block": 2}, "block=2 is for method='golub-kahan', not 'auto'"),
        ({"block": 0, "method": "golub-kahan"}, "block=0 must be at least 1"),
        ({"preconditioner": operator}, "a preconditioner is for method='lobpcg', not 'auto'"),
    ):
        with pytest.raises(ValueError, match=message):
            pb.eigsh(operator, 2, **arguments)
    with pytest.raises(ValueError, match=r"square operator of shape .*, got \(4, 30\)"):
        pb.eigsh(DenseLinearOperator(torch.rand(4, 30)), 2)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_blocks_give_the_same(block):
    J = torch.stack([with_spectrum(geometric(60, r), 60, 90) for r in (0.5, 0.9)])
    pairs = pb.eigsh(pb.PullbackMetric(J), 4, "golub-kahan", block=block)
    exact = torch.stack([geometric(4, 0.5), geometric(4, 0.9)])
    torch.testing.assert_close(pairs.values, exact, rtol=1e-7, atol=0)
    assert pairs.converged.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_zero_operators(method, dtype):
    for shape in ((20, 20), (2, 20, 20)):
        zero = ZeroLinearOperator(*shape, dtype=dtype)
        J = torch.rand(*shape, dtype=dtype)
        for operator in (zero, pb.PullbackMetric(zero), pb.PullbackMetric(J, zero)):
            pairs = pb.eigsh(operator, 3, method)
            assert pairs.values.dtype == pairs.vectors.dtype == dtype
            assert pairs.converged.all()
            assert not pairs.values.any()
            eye = torch.eye(3, dtype=dtype).expand(*shape[:-2], 3, 3)
            torch.testing.assert_close(pairs.vectors.mT @ pairs.vectors, eye)
        assert not pb.svds(zero, 3, method).values.any()


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_identity_that_is_on_no_device(method, batch):
    identity = IdentityLinearOperator(30, batch_shape=torch.Size(batch))
    assert identity.device is None
    for operator in (identity, identity * 2, pb.PullbackMetric(identity)):
        pairs = pb.eigsh(operator, 3, method)
        exact = operator.to_dense()[..., :3, :3].diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(pairs.values, exact)
        assert pairs.converged.all()
    torch.testing.assert_close(pb.trace(operator).value, torch.full(batch, 30.0))
    rows, columns = torch.tensor([4, 5]), torch.tensor([4, 0])
    expected = torch.tensor([1.0, 0.0]).expand(*batch, 2)
    torch.testing.assert_close(operator[..., rows, columns], expected)


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_operators_that_are_evaluated_lazily(method):
    gpytorch = pytest.importorskip("gpytorch")
    kernel = gpytorch.kernels.RBFKernel().double()
    x = torch.rand(2, 40, 2, dtype=torch.float64)
    for points in (x, x[0]):
        K = kernel(points)
        for operator in (K, pb.PullbackMetric(torch.eye(40).double().expand(K.shape), K)):
            pairs = pb.eigsh(operator, 3, method)
            exact = torch.linalg.eigvalsh(K.to_dense()).flip(-1)[..., :3]
            torch.testing.assert_close(pairs.values, exact.detach(), rtol=1e-6, atol=0)
            assert pairs.converged.all()
        singular = pb.svds(K, 3, method).values
        torch.testing.assert_close(singular, exact.detach(), rtol=1e-6, atol=0)

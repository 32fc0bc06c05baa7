"""Weights that are not symmetric, indefinite or NaN are refused, whatever holds them."""

import gpytorch
import pytest
import torch
from linear_operator import LinearOperator
from linear_operator.operators import (
    DenseLinearOperator,
    DiagLinearOperator,
    IdentityLinearOperator,
    KroneckerProductLinearOperator,
    MatmulLinearOperator,
    SumLinearOperator,
    to_linear_operator,
)
from torch import Tensor, nn

import pullback as pb
from pullback import weights
from tests.eigen.test_eigsh import HARD

DTYPES = [torch.float32, torch.float64]
M = 30


class Products(LinearOperator):
    """A matrix of which only products can be had, and those are counted."""

    count = 0

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix)
        self.matrix = matrix

    def _size(self):
        return self.matrix.shape

    def _transpose_nonbatch(self):
        return Products(self.matrix.mT)

    def _matmul(self, rhs):
        Products.count += rhs.shape[-1]
        return self.matrix @ rhs

    def to_dense(self):
        raise AssertionError("formed")


def rotated(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    n, g = len(eigenvalues), torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    A = (U * eigenvalues) @ U.mT
    return (A + A.mT) / 2


def good() -> Tensor:
    return rotated(torch.linspace(0.1, 2, M, dtype=torch.float64))


def bad(kind: str) -> Tensor:
    A = good()
    if kind == "symmetric":
        A[3, 7] += 0.1
    elif kind == "positive semi-definite":
        A = rotated(torch.linspace(-0.2, 2, M, dtype=torch.float64))
    else:
        A[3, 7] = A[7, 3] = torch.nan if kind == "NaN" else torch.inf
    return A


HOLDERS = {
    "tensor": lambda A: A,
    "dense": DenseLinearOperator,
    "products": Products,
    "lazily multiplied": lambda A: MatmulLinearOperator(A, torch.eye(M, dtype=A.dtype)),
    "Kronecker": lambda A: KroneckerProductLinearOperator(
        IdentityLinearOperator(1, dtype=A.dtype, device=A.device), to_linear_operator(A)
    ),
    "sum": lambda A: SumLinearOperator(Products(A / 2), DenseLinearOperator(A / 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["symmetric", "positive semi-definite", "NaN", "infinite"])
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_weight_that_is_none_is_refused(holder, kind, whole, dtype, monkeypatch):
    if not whole:  # as large tensors are looked at
        monkeypatch.setattr(weights, "WHOLE", M - 1)
    J = torch.randn(M, 40, dtype=dtype)
    sentence = {"NaN": "is NaN or infinite", "infinite": "is NaN or infinite"}
    with pytest.raises(ValueError, match=rf"^the weight .*{sentence.get(kind, kind)}.* sample 0"):
        pb.PullbackMetric(J, HOLDERS[holder](bad(kind).to(dtype)))
    metric = pb.PullbackMetric(J, HOLDERS[holder](good().to(dtype)))
    exact = torch.einsum("ij,ik,jk->", good(), J.double(), J.double())
    for trace in (metric.trace(), (metric @ torch.eye(40, dtype=dtype)).trace()):
        torch.testing.assert_close(trace.double(), exact, rtol=1e-4, atol=0.0)
    if holder not in ("products", "sum"):  # whose matrices cannot be had
        torch.testing.assert_close(pb.trace(metric).value.double(), exact, rtol=1e-4, atol=0.0)


def test_the_sentence_says_where_and_how_much():
    J = torch.randn(3, M, 40, dtype=torch.float64)
    weight = torch.stack([good(), good(), bad("positive semi-definite")])
    with pytest.raises(
        ValueError, match=r"in sample 2 vᵀMv reaches from -0\.2 to 2 for unit vectors v$"
    ):
        pb.PullbackMetric(J, weight)
    weight[1, 2, 5] += 0.25
    with pytest.raises(ValueError, match=r"in sample 1 uᵀMv and vᵀMu differ by 0\.25 for unit"):
        pb.PullbackMetric(J, weight)
    diagonal = torch.ones(3, M, dtype=torch.float64)
    diagonal[1, 4] = -1e-5
    with pytest.raises(ValueError, match="in sample 1 vᵀMv reaches from -1e-05 to 1 for"):
        pb.PullbackMetric(J, DiagLinearOperator(diagonal))
    diagonal[0, 4] = torch.nan
    with pytest.raises(ValueError, match="the weight is NaN or infinite in sample 0"):
        pb.PullbackMetric(J, DiagLinearOperator(diagonal))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("spectrum", HARD)
def test_rounding_is_no_reason(spectrum, whole, dtype, monkeypatch):
    if not whole:
        monkeypatch.setattr(weights, "WHOLE", 1)
    eigenvalues = torch.nn.functional.pad(HARD[spectrum].double(), (0, 20))
    n = len(eigenvalues)
    J = torch.randn(n, 4, dtype=dtype)
    U = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    root = (U * eigenvalues.sqrt()).to(dtype)
    for scale in (1.0, 1e-15, 1e15):
        weight = scale * root @ root.mT
        for held in (weight, Products(weight), MatmulLinearOperator(scale * root, root.mT.clone())):
            pb.PullbackMetric(J, held)
        pb.PullbackMetric(J, scale * (U * eigenvalues).to(dtype) @ U.mT.to(dtype))


def test_a_look_takes_few_products_and_forms_nothing():
    n = 3000
    weight = Products(torch.rand(n, 1) * torch.eye(n))
    Products.count = 0
    metric = pb.PullbackMetric(torch.randn(n, 5), weight)
    assert 0 < Products.count <= weights.STEPS
    # It is not looked at again, neither for a product nor in operators made from this one.
    Products.count = 0
    _ = metric @ torch.randn(5, 1)
    _ = metric.expand(2, 5, 5).mT[1] @ torch.randn(5, 1)
    assert Products.count == 2


def test_a_lazily_evaluated_kernel_is_a_weight():
    kernel = gpytorch.kernels.RBFKernel().double()
    J = torch.randn(50, 20, dtype=torch.float64)
    identity = IdentityLinearOperator(50, dtype=J.dtype, device=J.device)
    for noise in (None, 0.1):
        K = kernel(torch.rand(50, 2, dtype=torch.float64))
        K = K if noise is None else K + noise * identity
        metric = pb.PullbackMetric(J, K)
        exact = (J.mT @ K.to_dense() @ J).trace()
        torch.testing.assert_close(metric.trace(), exact)
        estimate = pb.trace(metric)
        torch.testing.assert_close(estimate.value, exact.detach(), rtol=1e-4, atol=0.0)
    with pytest.raises(ValueError, match="must be positive semi-definite"):
        pb.PullbackMetric(J, K - 3.0 * identity)


@pytest.mark.parametrize("ask", ["trace", "entropy", "slq", "eigsh", "golub-kahan", "score"])
def test_a_decoder_whose_derivative_is_nan_is_refused(ask):
    encoder = pb.as_map(nn.Linear(40, 6))
    decoder = pb.as_map(lambda z: torch.cat([z, (z - z).sqrt()], 1))
    x = torch.rand(2, 40)
    metric = pb.expected_metric(encoder, x, decoder)
    asked = {
        "trace": lambda: pb.trace(metric),
        "entropy": lambda: pb.entropy(metric),
        "slq": lambda: pb.entropy(metric, method="slq"),
        "eigsh": lambda: pb.eigsh(metric, 2),
        "golub-kahan": lambda: pb.eigsh(metric, 2, "golub-kahan"),
        "score": lambda: pb.score(encoder, x, 2, decoder),
    }
    with pytest.raises(ValueError, match=r"NaN or infinite in sample 0, 1$"):
        asked[ask]()
    # By hand, too.
    z = encoder(x)[0].detach()
    by_hand = pb.PullbackMetric(metric.jacobian, pb.expected_metric(decoder, z))
    with pytest.raises(ValueError, match=r"NaN or infinite in sample 0, 1$"):
        pb.trace(by_hand)


def test_gradients_reach_a_weight_that_was_looked_at():
    J = torch.randn(M, 5, dtype=torch.float64)
    weight = good().requires_grad_()
    v = torch.randn(5, 1, dtype=torch.float64)
    (v.mT @ (pb.PullbackMetric(J, weight) @ v)).backward()
    torch.testing.assert_close(weight.grad, (J @ v) @ (J @ v).mT)


def test_what_is_no_weight():
    J = torch.rand(2, 3, 5, dtype=torch.float64)
    with pytest.raises(TypeError, match="linear operator or a tensor, got ndarray"):
        pb.PullbackMetric(J, torch.eye(3).numpy())
    with pytest.raises(TypeError, match="must be float64 as the Jacobian is, got float32"):
        pb.PullbackMetric(J, torch.eye(3))
    for shape in ((5, 5), (3, 3, 3), (7, 2, 3, 3), (3,)):
        with pytest.raises(ValueError, match=r"weight must have shape \(\.\.\., 3, 3\) for a Jaco"):
            pb.PullbackMetric(J, torch.ones(shape, dtype=torch.float64))

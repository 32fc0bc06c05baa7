"""Operators of any size: what fits the dtype is found and certified, the rest refused by name."""

import pytest
import torch
from linear_operator.operators import DenseLinearOperator
from torch import Tensor

import pullback as pb
from pullback.eigen import METHODS
from pullback.eigen.records import select_samples
from pullback.eigen.scaling import bring_near_one, exponents
from tests.conftest import numbered, prescribed
from tests.eigen.test_eigsh import DTYPES, geometric, with_spectrum

LARGEST = {torch.float32: 30, torch.float64: 300}
SHAPES = [(30, 50), (50, 30)]


def check(pairs: pb.EigenPairs, exact: Tensor, size: float) -> None:
    """Values times ``size`` are exact, and all have converged, for every sample."""
    # Beside rounding, an eigenvalue has the square of its vector's error.
    rounding = max(1e-8, 100 * torch.finfo(pairs.values.dtype).eps)
    exact = exact.expand(pairs.values.shape)
    torch.testing.assert_close(pairs.values.double() * size, exact, rtol=rounding, atol=0)
    assert pairs.converged.all()
    assert ((pairs.residual_norms > 0) & (pairs.residual_norms < 1e-4 * pairs.values)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_eigenvalues_of_any_size(method, sign, dtype):
    order = sign * LARGEST[dtype]
    for shape in SHAPES:
        J = (with_spectrum(geometric(30, 0.6), *shape) * 10.0 ** (order / 2)).to(dtype)
        check(pb.eigsh(pb.PullbackMetric(J), 5, method), geometric(5, 0.6), 10.0**-order)
    J = with_spectrum(geometric(40, 0.6), 40, 40)
    A = DenseLinearOperator((J.mT @ J * 10.0**order).to(dtype))
    check(pb.eigsh(A, 5, method), geometric(5, 0.6), 10.0**-order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_sizes_of_jacobian_and_weight_that_only_together_fit(method, dtype):
    order = 0.8 * LARGEST[dtype]
    J = with_spectrum(geometric(30, 0.6), 30, 50)
    J = torch.stack([J * 10.0**-order, J, J * 10.0**order]).to(dtype)
    eye = torch.eye(30, dtype=torch.float64)
    weight = torch.stack([eye * 10.0**order, eye, eye * 10.0**-order]).to(dtype)
    pairs = pb.eigsh(pb.PullbackMetric(J, weight), 4, method)
    for sample, size in enumerate((10.0**order, 1.0, 10.0**-order)):
        check(select_samples(pairs, torch.tensor([sample])), geometric(4, 0.6), size)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_finds_the_same_beside_one_of_another_size(method):
    J = with_spectrum(geometric(30, 0.6), 30, 50).float()
    J = torch.stack([J, J * 2.0**-50, J * 2.0**50, 0 * J])
    metric = pb.PullbackMetric(J[:1])
    alone = pb.eigsh(metric, 4, method)
    with pytest.warns(pb.RankWarning, match="rank 0 in sample 3"):
        together = pb.eigsh(pb.PullbackMetric(J), 4, method)
    torch.testing.assert_close(alone.values[0], together.values[0])
    expected = geometric(4, 0.6).float()
    torch.testing.assert_close(together.values[1] * 2.0**100, expected)
    torch.testing.assert_close(together.values[2] * 2.0**-100, expected)
    assert together.converged.all()


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_what_is_beyond_the_range_is_refused(method):
    J = with_spectrum(geometric(30, 0.6), 30, 50).float()
    for factor, order, words in ((1e-25, -50, "fall below"), (1e25, 50, "exceed")):
        metric = pb.PullbackMetric(torch.stack([J, factor * J]))
        message = (
            f"eigenvalues of sample 1, about 1e[+]?{order}, {words} the range of torch.float32"
        )
        with pytest.raises(ValueError, match=message):
            pb.eigsh(metric, 3, method)
    with pytest.raises(ValueError, match="fall below"):
        pb.entropy(pb.PullbackMetric(1e-25 * J))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [-30, 30])
def test_scores_of_any_size(method, order):
    J = (with_spectrum(geometric(30, 0.3), 30, 50) * 10.0 ** (order / 2)).float()[None]
    scores = pb.score(prescribed(J), numbered(J), 4, method=method)
    values = geometric(30, 0.3)
    p = values / values.sum()
    entropy = -(p * p.log()).sum().float()
    assert (scores.entropy - entropy).abs() <= 2 * scores.entropy_error + 1e-4
    trace = values.sum() * 10.0**order
    assert (scores.trace - trace).abs() <= 2 * scores.trace_error + 1e-5 * trace


def test_an_operator_near_one_stays_as_it_is():
    J = torch.rand(2, 5, 7)
    operator = bring_near_one(pb.PullbackMetric(J))
    columns = torch.rand(2, 7, 3)
    assert torch.equal(operator.jacobian @ columns, J @ columns)
    assert not exponents(operator).any()


def test_the_first_product_that_is_not_zero_fixes_the_size():
    J = torch.tensor([[[1e-12, 0.0]], [[0.0, 0.0]]])
    A = bring_near_one(DenseLinearOperator(J))
    none, both = torch.tensor([[0.0], [1.0]]).expand(2, 2, 1), torch.ones(2, 2, 1)
    assert not (A @ none).any()
    part = A[torch.tensor([0])]
    image = part @ both[:1]
    assert 0.5 < image.item() < 2
    assert exponents(A)[0] == 40
    assert not exponents(A)[1]
    assert torch.equal(A @ both, torch.stack([image[0], torch.zeros(1, 1)]))
    assert torch.equal(A.mT @ torch.ones(2, 1, 1), A.to_dense().mT)

"""svds against scipy and dense."""

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from linear_operator.operators import DenseLinearOperator

import pullback as pb
from pullback.eigen import METHODS
from tests.conftest import ConvEncoder
from tests.eigen.test_eigsh import geometric, with_spectrum


@pytest.mark.parametrize("shape", [(30, 70), (70, 30)])
@pytest.mark.parametrize("method", METHODS)
def test_svds_against_scipy(method, shape):
    J = with_spectrum(geometric(30, 0.5), *shape)
    triplets = pb.svds(DenseLinearOperator(J), 4, method)
    u, s, _ = scipy.sparse.linalg.svds(J.numpy(), 4)
    np.testing.assert_allclose(triplets.values.numpy(), s[::-1], rtol=1e-7)
    left, right = triplets.left, triplets.right
    torch.testing.assert_close(J @ right, left * triplets.values, rtol=0, atol=1e-6)
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(left.mT @ left, eye)
    torch.testing.assert_close(right.mT @ right, eye)
    overlap = np.abs(np.sum(u[:, ::-1] * left.numpy(), axis=0))
    np.testing.assert_allclose(overlap, 1, atol=1e-6)
    residuals = (J.mT @ left - right * triplets.values).norm(dim=-2)
    torch.testing.assert_close(residuals, triplets.residual_norms, rtol=0.01, atol=1e-12)


def test_svds_of_a_jacobian_and_beyond_its_rank():
    encoder = pb.as_map(ConvEncoder(latent=4).eval(), "mean_logvar")
    J = pb.jacobian(encoder, torch.rand(2, 3, 32, 32))
    triplets = pb.svds(J, 3)
    torch.testing.assert_close(
        triplets.values, torch.linalg.svdvals(J.to_dense())[:, :3], rtol=1e-4, atol=0
    )
    with pytest.warns(pb.RankWarning):
        triplets = pb.svds(DenseLinearOperator(with_spectrum(geometric(2, 0.5), 6, 9)), 4)
    assert (triplets.values[2:] == 0).all()
    torch.testing.assert_close(triplets.left.mT @ triplets.left, torch.eye(4).double())
    with pytest.raises(ValueError, match="k=9 must lie between 1 and min"):
        pb.svds(J, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
@pytest.mark.parametrize("method", ["auto", "dual", "golub-kahan"])
def test_small_singular_values_down_to_rounding(method, shape, dtype):
    eps = torch.finfo(dtype).eps
    sigma = torch.logspace(0, float(np.log10(100 * eps)), 9, dtype=torch.float64)
    J = with_spectrum(sigma.square(), *shape)
    for size in (1.0, 1e-25 if dtype == torch.float32 else 1e-250):
        triplets = pb.svds(DenseLinearOperator((J * size).to(dtype)), 9, method)
        values = triplets.values.double() / size
        torch.testing.assert_close(values, sigma, rtol=1e-4, atol=20 * eps)
        assert triplets.converged.all()
        left, right = triplets.left.double(), triplets.right.double()
        torch.testing.assert_close(J @ right, left * values, rtol=0, atol=40 * eps)
        torch.testing.assert_close(J.mT @ left, right * values, rtol=0, atol=40 * eps)
    with pytest.warns(pb.RankWarning, match="rank 9"):
        triplets = pb.svds(DenseLinearOperator(J.to(dtype)), 12, method)
    assert (triplets.values[9:] == 0).all()
    assert triplets.converged.all()


@pytest.mark.parametrize("method", ["lanczos", "lobpcg", "nystrom"])
def test_small_singular_values_that_a_method_squares_away_have_not_converged(method):
    sigma = torch.logspace(0, -12, 13, dtype=torch.float64)
    J = with_spectrum(sigma.square(), 60, 80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triplets = pb.svds(DenseLinearOperator(J), 13, method)
    wrong = (triplets.values - sigma).abs() > 1e-3 * sigma
    assert not (wrong & triplets.converged).any()

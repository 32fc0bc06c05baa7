"""Gradient ascent on ‖Jη‖ against the eigenvector that it looks for."""

import pytest
import torch

import pullback as pb
from pullback.attacks import EigenAttack, GradientAttack
from tests.attacks.conftest import DTYPES, linear
from tests.conftest import SmoothEncoder


@pytest.mark.parametrize("step_size", [1.0, 10.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_converges_to_the_eigenvector(dtype, step_size):
    encoder = pb.as_map(SmoothEncoder(12, 4, dtype=dtype), "mean_logvar")
    x = torch.rand(4, 3, 4, dtype=dtype)
    expected = EigenAttack(encoder, eps=0.5)(x)
    result = GradientAttack(encoder, eps=0.5, steps=300, step_size=step_size)(x)
    torch.testing.assert_close(result.step, expected.step, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(result.norm, torch.full_like(result.norm, 0.5))
    assert result.n_products == 602


def test_on_a_linear_map_every_step_leads_further():
    encoder, A = linear()
    x = torch.rand(4, 20, dtype=torch.float64)
    runs = [GradientAttack(encoder, eps=1.0, steps=n, step_size=0.5)(x) for n in range(1, 30)]
    distances = torch.stack([run.latent_distance for run in runs])
    assert (distances.diff(dim=0) > -1e-12).all()
    assert (distances[-1] > 0.99 * torch.linalg.matrix_norm(A, 2)).all()


def test_a_zero_metric_leaves_the_random_direction():
    result = GradientAttack(lambda x: 0 * x, eps=0.5)(torch.rand(2, 6))
    torch.testing.assert_close(result.norm, torch.full((2,), 0.5))
    assert (result.latent_distance == 0).all()

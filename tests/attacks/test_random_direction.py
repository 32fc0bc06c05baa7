"""Random directions: their length, and their mean effect against the trace."""

import torch

from pullback.attacks import RandomAttack
from tests.attacks.conftest import linear


def test_mean_squared_distance_is_the_trace_over_n():
    encoder, A = linear()
    result = RandomAttack(encoder, eps=0.3)(torch.rand(3000, 20, dtype=torch.float64))
    torch.testing.assert_close(result.norm, torch.full_like(result.norm, 0.3))
    expected = 0.3**2 * A.square().sum() / 20
    torch.testing.assert_close(
        result.latent_distance.square().mean(), expected, rtol=0.05, atol=0.0
    )
    assert result.n_products == 0

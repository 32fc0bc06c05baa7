"""Directions and points of a ball are uniform, and projections the nearest points."""

import pytest
import torch

from pullback.attacks.spheres import into_ball, normalized, norms, random_directions, random_points
from pullback.sampling import SampleStreams


def streams(count: int) -> SampleStreams:
    return SampleStreams(count, torch.Generator().manual_seed(0))


def test_directions_are_uniform():
    directions = random_directions(streams(4000), torch.rand(4000, 1, 3)).flatten(1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4000))
    # On the sphere in three dimensions every coordinate is uniform between −1 and 1.
    quantiles = directions.quantile(torch.linspace(0, 1, 9), dim=0)
    expected = torch.linspace(-1, 1, 9).unsqueeze(1).expand(9, 3)
    torch.testing.assert_close(quantiles, expected, rtol=0.0, atol=0.06)


def test_points_are_uniform_in_the_ball():
    points = random_points(streams(4000), torch.rand(4000, 1, 3)).flatten(1)
    fractions = points.norm(dim=1).pow(3).quantile(torch.linspace(0, 1, 9))
    torch.testing.assert_close(fractions, torch.linspace(0, 1, 9), rtol=0.0, atol=0.03)
    assert points.mean(0).abs().max() < 0.04


def test_projections():
    v = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(
        into_ball(v, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    )
    torch.testing.assert_close(normalized(v), torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(("dtype", "order"), [(torch.float32, 36), (torch.float64, 300)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_lengths_of_any_size(dtype, order, sign):
    v, size = torch.rand(3, 2, 5, dtype=dtype), 10.0 ** (sign * order)
    torch.testing.assert_close(norms(v * size) / size, v.flatten(1).norm(dim=1))
    torch.testing.assert_close(normalized(v * size), normalized(v))
    torch.testing.assert_close(into_ball(v * size, 0.5 * size) / size, into_ball(v, 0.5))
    (gradient,) = torch.autograd.grad(norms(w := (v * size).requires_grad_()).sum(), w)
    torch.testing.assert_close(gradient, normalized(v))

"""Projected gradient ascent on the latent distance: optimality, best iterates, starts."""

import itertools

import pytest
import torch

import pullback as pb
from pullback.attacks import EigenAttack, PGDAttack
from tests.attacks.conftest import DTYPES, curved, linear, moved


@pytest.mark.parametrize("start", ["random", "eigenvector"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_linear_map_it_reaches_the_optimum(dtype, start):
    encoder, _ = linear(dtype)
    result = PGDAttack(encoder, eps=0.3, start=start)(torch.rand(4, 20, dtype=dtype))
    assert (result.latent_distance >= 0.99 * 0.3).all()
    assert (result.norm <= 0.3 * (1 + 1e-6)).all()
    assert (result.norm >= 0.3 * (1 - 1e-6)).all()


@pytest.mark.parametrize("clip", [None, (0, 1)])
@pytest.mark.parametrize("eps", [0.01, 1.0, 4.0])
def test_from_the_eigenvector_it_is_no_worse(eps, clip):
    encoder, x = curved(), torch.rand(10, 16, dtype=torch.float64)
    eigen = EigenAttack(encoder, eps=eps, clip=clip)(x)
    pgd = PGDAttack(encoder, eps=eps, clip=clip, start="eigenvector", restarts=1, steps=20)(x)
    assert (pgd.latent_distance >= eigen.latent_distance).all()
    assert (pgd.latent_distance > 1.001 * eigen.latent_distance).any() or eps < 1
    assert pgd.n_products == eigen.n_products + 41


def test_a_peak_inside_the_ball_is_found_there():
    # ‖μ‖² = r² exp(−r²) around x = 0 is largest at r = 1, well within the ball.
    encoder = pb.as_map(lambda x: x * (-0.5 * x.square().sum(1, keepdim=True)).exp())
    result = PGDAttack(encoder, eps=3.0, steps=100)(torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(result.norm, torch.ones_like(result.norm), rtol=0.05, atol=0.0)
    assert (result.latent_distance > 0.999 * torch.tensor(-0.5).exp()).all()


def test_further_steps_and_restarts_never_lead_back():
    encoder, x = curved(), torch.rand(10, 16, dtype=torch.float64)
    furthest = [
        PGDAttack(encoder, eps=2.0, steps=15, restarts=n)(x).latent_distance for n in (1, 2, 5)
    ]
    for fewer, more in itertools.pairwise(furthest):
        assert (more >= fewer).all()
    assert (furthest[-1] > furthest[0]).any()


def test_the_best_iterate_is_kept_not_the_last():
    # Steps of twice the radius overshoot the peak again and again.
    encoder = pb.as_map(lambda x: x * (-20 * x.square().sum(1, keepdim=True)).exp())
    x = torch.zeros(30, 2, dtype=torch.float64)
    few, many = (PGDAttack(encoder, eps=1.0, steps=n, restarts=1)(x) for n in (1, 60))
    peak = (1 / 40**0.5) * torch.tensor(-0.5).exp()
    assert (many.latent_distance > 0.95 * peak).all()
    assert (few.latent_distance <= peak).all()


def test_it_never_starts_where_the_gradient_vanishes():
    # In a corner, clipping takes all of a step away that leads out of the box.
    encoder = pb.as_map(lambda x: 2 * x)
    for corner in (torch.zeros(40, 2), torch.ones(40, 2)):
        for eps in (0.1, 5.0):
            result = PGDAttack(encoder, eps=eps, clip=(0, 1), steps=20, restarts=1)(corner)
            best = 2 * min(eps, 2**0.5)
            assert (result.latent_distance > 0.99 * best).all()


def test_a_constant_map_is_no_trouble():
    result = PGDAttack(lambda x: 0 * x, eps=0.5)(torch.rand(2, 6))
    assert (result.latent_distance == 0).all()
    assert result.step.isfinite().all()


def test_products_are_gradients_and_distances():
    encoder, x = curved(), torch.rand(2, 16, dtype=torch.float64)
    calls = 0

    def counted(x):
        nonlocal calls
        calls += len(x)
        return encoder(x)[0]

    fn = pb.as_map(counted)
    fn.check(x)  # probes the map, once
    calls = 0
    result = PGDAttack(fn, eps=0.1, steps=7, restarts=3)(x)
    assert result.n_products == 3 * 15
    # 3·8 forward passes per sample, 3·7 of which are followed by a backward one; and two that
    # every attack needs, at x and at the result.
    assert calls == 2 * (3 * 8 + 2)


def test_the_distance_is_that_of_the_clipped_input():
    encoder, x = curved(), torch.rand(5, 16, dtype=torch.float64).round(decimals=1)
    result = PGDAttack(encoder, eps=2.0, clip=(0, 1), steps=20)(x)
    torch.testing.assert_close(result.x, (x + result.step).clamp(0, 1))
    torch.testing.assert_close(result.latent_distance, moved(encoder, x, result.x))
    assert (result.norm <= 2.0 * (1 + 1e-12)).all()


def test_refusals():
    with pytest.raises(ValueError, match="restarts=0 must be at least 1"):
        PGDAttack(lambda x: x, eps=0.1, restarts=0)
    with pytest.raises(ValueError, match="start='zero' is not one of 'random', 'eigenvector'"):
        PGDAttack(lambda x: x, eps=0.1, start="zero")

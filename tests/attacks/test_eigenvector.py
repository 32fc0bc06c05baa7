"""The step along an eigenvector, against dense float64 Jacobians."""

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.attacks import EigenAttack, PGDAttack
from tests.attacks.conftest import ATTACKS, DTYPES, curved, linear, moved
from tests.conftest import SmoothEncoder, dense_jacobian, stacked


def eigh(G: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and eigenvectors as rows."""
    values, vectors = torch.linalg.eigh(G.double())
    return values.flip(-1), vectors.flip(-1).mT


def alignment(step: Tensor, vector: Tensor) -> Tensor:
    """|cos| of the angle between a step and a unit vector."""
    flat = step.flatten(1).double()
    return (flat * vector).sum(1).abs() / flat.norm(dim=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_linear_map_no_attack_goes_further(dtype):
    encoder, _ = linear(dtype)
    x = torch.rand(3, 4, 5, dtype=dtype)
    best = EigenAttack(encoder, eps=0.3)(x).latent_distance
    rtol = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(best, torch.full_like(best, 0.3), rtol=rtol, atol=0.0)
    for name, attack in ATTACKS.items():
        result = attack(encoder, eps=0.3)(x)
        assert (result.latent_distance <= best * (1 + rtol)).all(), name
        assert result.x.shape == result.step.shape == x.shape
        assert result.x.dtype == result.latent_distance.dtype == dtype


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rank_and_length(dtype, rank):
    encoder = pb.as_map(SmoothEncoder(12, 4, dtype=dtype), "mean_logvar")
    x = torch.rand(5, 3, 4, dtype=dtype)
    J = dense_jacobian(stacked(encoder), x).double()
    values, vectors = eigh(J.mT @ J)
    rtol = 1e-4 if dtype == torch.float32 else 1e-8

    fixed = EigenAttack(encoder, rank=rank, eps=0.2)(x)
    printed = EigenAttack(encoder, rank=rank, delta=0.7)(x)
    for result in (fixed, printed):
        torch.testing.assert_close(
            alignment(result.step, vectors[:, rank - 1]),
            torch.ones(5, dtype=torch.float64),
            rtol=rtol,
            atol=0.0,
        )
        torch.testing.assert_close(result.norm, result.step.flatten(1).norm(dim=1))
    torch.testing.assert_close(fixed.norm, torch.full_like(fixed.norm, 0.2))
    length = 0.7 * values[:, rank - 1]
    torch.testing.assert_close(printed.norm.double(), length, rtol=rtol, atol=0.0)


def test_the_combined_metric_against_dense():
    encoder = pb.as_map(SmoothEncoder(12, 4, dtype=torch.float64), "mean_logvar")
    decoder = pb.as_map(
        nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 12), nn.Sigmoid()).double()
    )
    x = torch.rand(3, 12, dtype=torch.float64)
    J = dense_jacobian(stacked(encoder), x)
    J_z = dense_jacobian(lambda z: decoder(z)[0], encoder(x)[0].detach())
    root = torch.cat([J_z @ J[:, :4], J_z @ J[:, 4:]], dim=1)
    values, vectors = eigh(root.mT @ root)

    result = EigenAttack(encoder, delta=2.0, decoder=decoder)(x)
    torch.testing.assert_close(result.norm, 2 * values[:, 0])
    assert (alignment(result.step, vectors[:, 0]) > 1 - 1e-8).all()
    flat = EigenAttack(encoder, delta=2.0)(x)
    assert (alignment(flat.step, vectors[:, 0]) < 0.999).all()
    # The decoder also shows what becomes of the images, unless another one is given for that.
    seen = (decoder(encoder(result.x)[0])[0] - x).square().mean(1)
    torch.testing.assert_close(result.reconstruction_error, seen.detach())
    grey = EigenAttack(
        encoder, delta=2.0, decoder=decoder, reconstruct=lambda z: 0 * z.repeat(1, 3)
    )
    torch.testing.assert_close(grey(x).reconstruction_error, x.square().mean(1))
    assert flat.reconstruction_error is None


@pytest.mark.parametrize("clip", [None, (0, 1)])
def test_the_sign_with_the_larger_effect_is_taken(clip):
    encoder, x = curved(), torch.rand(20, 16, dtype=torch.float64)
    result = EigenAttack(encoder, eps=1.0, clip=clip)(x)
    other = x - result.step
    if clip is not None:
        other = other.clamp(*clip)
    opposite = moved(encoder, x, other)
    assert (result.latent_distance >= opposite * (1 - 1e-7)).all()
    assert (result.latent_distance > 1.01 * opposite).any()
    largest = result.step.gather(1, result.step.abs().argmax(1, keepdim=True))
    assert (largest > 0).any()
    assert (largest < 0).any()


def test_a_tie_leaves_the_eigenvector_as_it_is():
    encoder, _ = linear(torch.float32)
    step = EigenAttack(encoder, eps=1.0)(torch.rand(50, 20)).step
    assert (step.gather(1, step.abs().argmax(1, keepdim=True)) > 0).all()


def test_small_steps_match_pgd_at_a_fraction_of_its_cost():
    encoder, x = curved(), torch.rand(8, 16, dtype=torch.float64)
    eigen = EigenAttack(encoder, eps=0.01)(x)
    pgd = PGDAttack(encoder, eps=0.01, restarts=3)(x)
    assert (eigen.latent_distance >= 0.99 * pgd.latent_distance).all()
    assert 10 * eigen.n_products < pgd.n_products


def test_a_zero_eigenvalue():
    encoder, x = pb.as_map(lambda x: x[:, :2] * 2), torch.rand(3, 5)
    with pytest.warns(pb.RankWarning):
        result = EigenAttack(encoder, rank=4, delta=0.5)(x)
    assert (result.norm == 0).all()
    assert (result.latent_distance == 0).all()
    torch.testing.assert_close(result.x, x)


def test_products_are_those_of_the_solver_and_the_two_signs():
    encoder, x = curved(), torch.rand(3, 16, dtype=torch.float64)
    for method in ("dual", "golub-kahan"):
        pairs = pb.eigsh(pb.expected_metric(encoder, x), 2, method)
        result = EigenAttack(encoder, rank=2, eps=0.1, method=method)(x)
        assert result.n_products == pairs.n_products + 2


@pytest.mark.parametrize("budget", [{}, {"eps": 0.1, "delta": 0.1}])
def test_exactly_one_of_eps_and_delta(budget):
    given = f"eps={budget.get('eps')} and delta={budget.get('delta')}"
    with pytest.raises(ValueError, match=f"exactly one of eps.* and delta.*; got {given}"):
        EigenAttack(lambda x: x, **budget)


def test_a_rank_that_is_none():
    for rank in (0, -1):
        with pytest.raises(ValueError, match=f"rank={rank} must be at least 1"):
            EigenAttack(lambda x: x, rank=rank, eps=0.1)
    for other in (1.5, True):
        with pytest.raises(TypeError, match=f"rank must be an integer, got {other}"):
            EigenAttack(lambda x: x, rank=other, eps=0.1)  # type: ignore[arg-type]


def test_a_rank_above_the_number_of_inputs():
    with pytest.raises(ValueError, match="rank=7 must lie between 1 and N = 6"):
        EigenAttack(lambda x: x, rank=7, eps=0.1)(torch.rand(2, 6))


@pytest.mark.parametrize("delta", [0, -1.0, float("nan")])
def test_a_delta_that_is_not_positive(delta):
    with pytest.raises(ValueError, match=f"delta={delta} must be a positive, finite number"):
        EigenAttack(lambda x: x, delta=delta)

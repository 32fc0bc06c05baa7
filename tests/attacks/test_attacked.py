"""What all attacks share: what they report, what they refuse, and what they do not depend on."""

from typing import Any

import pytest
import torch
from torch import nn

import pullback as pb
from pullback.attacks import EigenAttack, RandomAttack
from tests.attacks.conftest import ATTACKS, DTYPES, curved, linear, moved
from tests.conftest import SmoothEncoder

every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@every_attack
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_record(attack, dtype):
    encoder = pb.as_map(SmoothEncoder(12, 4, dtype=dtype), "mean_logvar")
    decoder = nn.Sequential(nn.Linear(4, 12, dtype=dtype), nn.Unflatten(1, (3, 4)))
    x = torch.rand(5, 3, 4, dtype=dtype)
    x[0] = 0
    x[1] = 1
    result = attack(encoder, eps=0.8, clip=(0, 1), reconstruct=decoder)(x)
    assert (result.x >= 0).all()
    assert (result.x <= 1).all()
    torch.testing.assert_close(result.x, (x + result.step).clamp(0, 1))
    torch.testing.assert_close(result.norm, result.step.flatten(1).norm(dim=1))
    torch.testing.assert_close(result.clipped_norm, (result.x - x).flatten(1).norm(dim=1))
    assert (result.norm <= 0.8 * (1 + 1e-6)).all()
    assert (result.clipped_norm <= result.norm * (1 + 1e-6)).all()
    torch.testing.assert_close(result.latent_distance, moved(encoder, x, result.x))
    with torch.no_grad():
        error = (decoder(encoder(result.x)[0]) - x).square().mean((1, 2))
    torch.testing.assert_close(result.reconstruction_error, error)
    for value in vars(result).values():
        assert isinstance(value, int) or (value.dtype == dtype and not value.requires_grad)


@every_attack
def test_a_result_does_not_depend_on_the_batch(attack):
    encoder, x = curved(torch.float32), torch.rand(8, 16)
    runs = []
    for size in (1, 3, 8):
        g = torch.Generator().manual_seed(5)
        parts = [attack(encoder, eps=0.5, clip=(0, 1))(part, g) for part in x.split(size)]
        runs.append(torch.cat([part.step for part in parts]))
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        *((name, exponent) for name in ATTACKS for exponent in (-45, 45)),
        # Eigenvalues, squares that they are, have no place in float32 there.
        *((name, exponent) for name in ("random", "gradient", "pgd") for exponent in (-75, 75)),
    ],
)
def test_codes_of_any_size(name, exponent):
    attack = ATTACKS[name]
    net, x = curved(torch.float32), torch.rand(4, 16)
    expected = attack(net, eps=0.1)(x)
    scaled = attack(lambda x: net(x)[0] * 2.0**exponent, eps=0.1)(x)
    torch.testing.assert_close(scaled.step, expected.step)
    distance = scaled.latent_distance * 2.0**-exponent
    torch.testing.assert_close(distance, expected.latent_distance)


@every_attack
def test_the_seed_decides(attack):
    encoder, x = curved(), torch.rand(4, 16, dtype=torch.float64)
    apply = attack(encoder, eps=0.5)
    state = torch.get_rng_state()
    first, again = (apply(x, torch.Generator().manual_seed(3)).step for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(apply(x).step, apply(x, torch.Generator().manual_seed(0)).step)
    assert torch.equal(state, torch.get_rng_state())


def test_other_seeds_are_other_directions():
    apply, x = RandomAttack(lambda x: x, eps=0.5), torch.rand(4, 16)
    first, other = (apply(x, torch.Generator().manual_seed(seed)).step for seed in (3, 4))
    assert (first - other).flatten(1).norm(dim=1).min() > 0.1


@every_attack
def test_in_inference_mode_and_with_gradients(attack):
    encoder, x = curved(), torch.rand(3, 16, dtype=torch.float64)
    apply = attack(encoder, eps=0.5)
    expected = apply(x).step
    with torch.inference_mode():
        inside = apply(x.clone()).step
    with pytest.warns(UserWarning, match="is not differentiable"):
        outside = apply(x.clone().requires_grad_()).step
    torch.testing.assert_close(inside, expected)
    torch.testing.assert_close(outside, expected)
    assert all(p.grad is None for p in encoder.tensors().values())


@every_attack
def test_bad_arguments(attack):
    for eps in (0, -0.1, float("nan"), float("inf"), "0.1", True):
        with pytest.raises(ValueError, match=r"eps=.* must be a positive, finite number"):
            attack(lambda x: x, eps=eps)
    clips: list[Any] = [(1, 0), (0, 0), (0,), 1.0, (0, float("nan")), ("0", "1")]
    for clip in clips:
        with pytest.raises(ValueError, match=r"clip=.* must be None or an increasing pair of"):
            attack(lambda x: x, eps=0.1, clip=clip)
    with pytest.raises(TypeError, match="a map must be a module or a function, got int"):
        attack(3, eps=0.1)


@pytest.mark.parametrize("name", ["steps", "step_size"])
@pytest.mark.parametrize("attack", ["gradient", "pgd"])
def test_bad_steps(attack, name):
    with pytest.raises(ValueError, match=f"{name}=0 must be (at least 1|a positive)"):
        ATTACKS[attack](lambda x: x, eps=0.1, **{name: 0})


@every_attack
def test_bad_inputs(attack):
    apply = attack(lambda x: x.flatten(1) * 2, eps=0.1, clip=(0, 1))
    x = torch.rand(3, 4)
    x[1, 2] = float("nan")
    with pytest.raises(ValueError, match="x holds NaN or infinite values in sample 1"):
        apply(x)
    with pytest.raises(TypeError, match="x must be float32 or float64, got uint8"):
        apply(torch.zeros(3, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"x has values from -0.5 to 2, outside of clip=\(0, 1\)"):
        apply(torch.tensor([[-0.5, 2.0]]))
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got 3"):
        apply(torch.rand(3, 4), 3)
    training = attack(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), eps=0.1)
    with pytest.raises(ValueError, match="is in training mode"):
        training(torch.rand(3, 4))


def test_a_decoder_of_other_images():
    encoder, _ = linear(torch.float32)
    attack = EigenAttack(encoder, eps=0.1, reconstruct=nn.Linear(6, 19))
    with pytest.raises(ValueError, match=r"mean has shape \(19,\) .* an input has shape \(4, 5\)"):
        attack(torch.rand(2, 4, 5))


@every_attack
def test_codes_that_overflow(attack):
    apply = attack(lambda x: (40 * x).cosh(), eps=20.0)
    with pytest.raises(ValueError, match="the encoder's mean holds NaN or infinite values after a"):
        apply(torch.full((2, 3), 0.5))


@every_attack
def test_results_of_a_device_are_those_of_a_cpu(attack, device):
    encoder, x = curved(), torch.rand(4, 16, dtype=torch.float64)
    results = []
    for where in (torch.device("cpu"), device):
        for module in encoder.modules():
            module.to(where)
        results.append(attack(encoder, eps=0.5, clip=(0, 1))(x.to(where)))
        assert results[-1].x.device == where
    torch.testing.assert_close(results[1].x.cpu(), results[0].x.cpu(), rtol=0.0, atol=1e-6)

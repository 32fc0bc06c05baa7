"""What is measured of a VAE, where theory says what comes out."""

import numpy as np
import pytest
import torch

from studies.paper.measurement import MEASURED, PUBLISHED, STEPS, Effort, Step, effort, measure

STEPS_HERE = (*(Step(d, p, False) for p in (1, 0.5, 0) for d in (0.3, 2)), Step(5, 0))
EFFORT = Effort(images=4, steps=STEPS_HERE, marked=(Step(2, 0, False), Step(5, 0)))


@pytest.fixture
def x():
    return torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(1)).double()


def test_of_a_linear_vae_everything_is_known(linear_vae, x):
    found = measure(linear_vae, x, EFFORT)
    assert set(found) == set(MEASURED)
    s = torch.linalg.svdvals(linear_vae.matrix).numpy()
    share = s**2 / (s**2).sum()
    expected = {
        "eigenvalues": np.tile(s[:5] ** 2, (4, 1)),
        "trace": np.full(4, (s**2).sum()),
        "entropy": np.full(4, -(share * np.log(share)).sum()),
        "entropy_none": np.full(4, -(s**2 * np.log(s**2)).sum()),
        "entropy_max": np.full(4, -((s / s[0]) ** 2 * np.log((s / s[0]) ** 2)).sum()),
        "mean_radius": np.full(4, s[0]),
        "mean_entropy": np.full(4, -(s / s[0] * np.log(s / s[0])).sum()),
        "reconstruction_error": np.zeros(4),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    for i, step in enumerate(STEPS_HERE[:-1]):
        length = step.delta * s[:5] ** (2 * step.power)
        np.testing.assert_allclose(found["norm"][:, i], length, rtol=1e-9)
        np.testing.assert_allclose(found["clipped_norm"][:, i], length, rtol=1e-9)
        np.testing.assert_allclose(found["latent_distance_mean"][:, i], length * s[:5], rtol=1e-9)
        np.testing.assert_allclose(found["attack_error_mean"][:, i], length**2 / 6, rtol=1e-9)
        np.testing.assert_allclose(found["attack_error_std"][:, i], 0, atol=1e-9)
    np.testing.assert_allclose(found["attack_error"][:, 0], 4 / 6, rtol=1e-9)
    np.testing.assert_allclose(found["corrupted_error_mean"], 0, atol=1e-12)


def test_clipping_shortens_the_step_and_the_better_sign_is_taken(linear_vae, x):
    found = measure(linear_vae, x, EFFORT)
    assert (found["clipped_norm"][:, -1] < 0.9 * found["norm"][:, -1]).all()
    v = torch.linalg.svd(linear_vae.matrix).Vh[0].reshape(1, 2, 3)
    both = torch.stack([(x + sign * 5 * v).clamp(0, 1) - x for sign in (1, -1)])
    moved = (both.flatten(2) @ linear_vae.matrix.T).norm(dim=2)
    np.testing.assert_allclose(found["latent_distance_mean"][0, -1], moved.amax(0).mean())
    errors = both.square().flatten(2).mean(2)[moved.argmax(0), torch.arange(4)]
    np.testing.assert_allclose(found["attack_error"][:, 1], errors, rtol=1e-9)
    np.testing.assert_allclose(found["attack_error_std"][0, -1], errors.std(correction=0))


def test_the_combined_metric_of_an_exact_vae_is_the_identity(linear_vae, x):
    # J_g J_μ = 1, so Eq. 11 is the identity, whatever the encoder.
    found = measure(linear_vae, x, EFFORT, combined=True)
    np.testing.assert_allclose(found["eigenvalues"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], np.log(6), rtol=1e-6)


def test_a_constant_encoder_has_no_spectrum(linear_vae, x):
    linear_vae.matrix.zero_()
    with pytest.warns(match="rank"):
        found = measure(linear_vae, x, EFFORT)
    assert not any(np.isnan(array).any() for array in found.values())
    assert not found["mean_radius"].any()
    assert not found["mean_entropy"].any()


def test_the_papers_steps():
    # Paper, Sec. 4, with the range that its two printed steps belong to.
    np.testing.assert_allclose(PUBLISHED, [0.1, 0.5223, 0.7443, 3.4551, 10], rtol=2e-4)
    assert sum(step.power == 1 and step.clipped for step in STEPS) == 40
    for quick in (False, True):
        extent = effort(3072, quick=quick)
        assert set(extent.marked) <= set(extent.steps)
    with pytest.raises(ValueError, match="images=1 must be at least 2"):
        effort(1, quick=False)

"""Training: it learns, repeats itself, keeps what it learnt, and refuses what it cannot do."""

import json

import pytest
import torch
from safetensors.torch import save_file

from models import datasets, training
from models.vae import MLPVAE, ConvVAE

SMALL = {"hidden": (32, 16), "latent": 4}
SMALL_CONVOLUTIONS = {"filters": (8, 16), "units": (16, 32), "latent": 8}


def digits() -> torch.Tensor:
    return datasets.load("digits").train[:300]


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_reconstructions_beat_the_mean_image(likelihood):
    x = digits()
    vae = training.train(x, beta=0.05, epochs=40, likelihood=likelihood, **SMALL)
    assert not vae.training
    error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
    assert error < 0.6 * (x - x.mean(0)).square().mean()


def test_convolutions_learn_photographs():
    x = datasets.load("photos").train[::10, :, ::4, ::4]
    vae = training.train(x, ConvVAE, epochs=10, batch_size=32, **SMALL_CONVOLUTIONS)
    error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
    assert error < 0.6 * (x - x.mean(0)).square().mean()


def test_a_larger_beta_keeps_the_code_closer_to_the_prior():
    x = digits()
    divergences = []
    for beta in (0.01, 10.0):
        mean, logvar = training.train(x, beta=beta, epochs=10, **SMALL).encode(x)
        divergences.append((mean.square() + logvar.exp() - 1 - logvar).sum(1).mean())
    assert divergences[1] < 0.1 * divergences[0]


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    x = digits()[:50]
    before = torch.random.get_rng_state()
    one, two, three = (
        training.train(x, epochs=2, seed=seed, **SMALL).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["mean.weight"], three["mean.weight"])


def test_a_last_batch_of_one_image_is_survived():
    assert training.train(digits()[:9], epochs=1, batch_size=4, **SMALL)


@pytest.mark.parametrize(
    ("architecture", "widths"), [(MLPVAE, SMALL), (ConvVAE, SMALL_CONVOLUTIONS)]
)
def test_checkpoints(architecture, widths, tmp_path):
    x = digits()
    vae = training.train(x[:50], architecture, epochs=1, **widths)
    path = tmp_path / "vae.safetensors"
    training.save(vae, path, beta=0.5, dataset="digits")
    again = training.load(path)
    assert type(again) is architecture
    assert not again.training
    torch.testing.assert_close(again.encode(x), vae.encode(x))


def test_a_checkpoint_that_does_not_name_its_class(tmp_path):
    vae = MLPVAE((1, 8, 8), **SMALL).eval()
    path = tmp_path / "old.safetensors"
    save_file(vae.state_dict(), path, {"architecture": json.dumps(vae.config), "training": "{}"})
    torch.testing.assert_close(training.load(path).encode(digits()), vae.encode(digits()))


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        training.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="is no safetensors file"):
        training.load(tmp_path / "text")
    save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="does not say what architecture"):
        training.load(tmp_path / "bare.safetensors")
    other = {"class": "Flow", "architecture": "{}"}
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors", other)
    with pytest.raises(ValueError, match="holds a 'Flow', not one of MLPVAE, ConvVAE"):
        training.load(tmp_path / "other.safetensors")


def test_what_is_refused():
    x = digits()[:10]
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"beta must be positive, got {beta}"):
            training.train(x, beta=beta, **SMALL)
    with pytest.raises(ValueError, match=r"at least 1 epoch, .* got 0, 10 and 128"):
        training.train(x, epochs=0, **SMALL)
    with pytest.raises(ValueError, match=r"at least 1 epoch, .* got 1, 10 and 1$"):
        training.train(x, epochs=1, batch_size=1, **SMALL)
    with pytest.raises(ValueError, match="likelihood='poisson' is not one of"):
        training.train(x, likelihood="poisson", **SMALL)
    with pytest.raises(FloatingPointError, match="the loss is nan after epoch 1"):
        training.train(x * torch.nan, epochs=3, **SMALL)

"""Checkpoints: they rebuild what was trained, or say why not."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models import checkpoints, datasets, training
from models.vae import MLPVAE, ConvVAE

SMALL: dict[str, Any] = {"hidden": (32, 16), "latent": 4}
SMALL_CONVOLUTIONS = {"filters": (8, 16), "units": (16, 32), "latent": 8}


def digits() -> torch.Tensor:
    return datasets.load("digits").train[:300]


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
    found = checkpoints.read_configuration(path)
    assert found["class"] == architecture.__name__
    assert found["architecture"] == vae.config
    assert found["training"] == {"beta": 0.5, "dataset": "digits"}
    assert [file.name for file in tmp_path.iterdir()] == ["vae.safetensors"]


def test_a_checkpoint_says_how_it_was_trained(tmp_path):
    path = tmp_path / "vae.safetensors"
    vae = training.train(
        digits()[:50], epochs=1, mixup=0.5, checkpoint=path, learned_variance=True, **SMALL
    )
    again = training.load(path)
    z = torch.randn(2, 4)
    torch.testing.assert_close(again.decode_distribution(z), vae.decode_distribution(z))
    found = checkpoints.read_configuration(path)["training"]
    assert found.pop("images").startswith("(50, 1, 8, 8) ")
    assert found == {
        "beta": 1.0,
        "epochs": 1,
        "batch_size": 128,
        "likelihood": "gaussian",
        "objective": "elbo",
        "mixup": 0.5,
        "mixup_form": "text",
        "schedule": "constant",
        "seed": 0,
    }


def test_a_save_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    path, vae = tmp_path / "vae.safetensors", MLPVAE((1, 8, 8), **SMALL)
    training.save(vae, path)
    before = path.read_bytes()

    def full(state, name, metadata):
        name.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        training.save(vae, path)
    assert [file.name for file in tmp_path.iterdir()] == ["vae.safetensors"]
    assert path.read_bytes() == before


def test_a_checkpoint_from_before_there_were_other_classes_and_variances(tmp_path):
    vae = MLPVAE((1, 8, 8), **SMALL).eval()
    path = tmp_path / "old.safetensors"
    old = {name: value for name, value in vae.config.items() if name != "learned_variance"}
    save_file(vae.state_dict(), path, {"architecture": json.dumps(old), "training": "{}"})
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": 5}, r"of another architecture than the MLPVAE .*: 5 of \d+ differ, the first "),
        ({"hidden": [32]}, "of another architecture than the MLPVAE that it names"),
        ({"learned_variance": True}, "differ, the first being decoder"),
        ({"depth": 3}, "describes a MLPVAE that cannot be made: .*depth"),
    ],
)
def test_weights_of_another_architecture(change, message, tmp_path):
    vae, path = MLPVAE((1, 8, 8), **SMALL), tmp_path / "vae.safetensors"
    vae.config |= change
    training.save(vae, path)
    with pytest.raises(ValueError, match=message):
        training.load(path)

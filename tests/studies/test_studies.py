"""The studies from the shell, as the README shows them, with less training."""

import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from models import training
from pullback import archive
from studies import digits


@pytest.fixture
def study(monkeypatch):
    """Runs ``python -m studies`` with arguments and gives its exit status."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["studies", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module("studies", run_name="__main__")
        return stopped.value.code

    return run


def test_digits_twice(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "EPOCHS", 2)
    for name in ("one", "two"):
        assert study("digits", "--out", tmp_path / name) == 0
    assert "450 of 450 images have all eigenpairs converged" in capsys.readouterr().out
    one, two = archive.read(tmp_path / "one"), archive.read(tmp_path / "two")
    assert one["eigenvalues"].shape == (450, 5)
    for column, values in one.items():
        np.testing.assert_array_equal(values, two[column])
    found = {path.name for path in (tmp_path / "one").iterdir()}
    assert found == {"manifest.json", "shards", "archive.h5", "vae.safetensors", "digits.png"}
    with Image.open(tmp_path / "one" / "digits.png") as picture:
        assert picture.width > 600
    # Into the same folder: nothing is scored again. With another seed: refused.
    assert study("digits", "--out", tmp_path / "one") == 0
    capsys.readouterr()
    assert study("digits", "--out", tmp_path / "one", "--seed", 1) == 1
    assert "holds another run" in capsys.readouterr().err


def test_train_writes_a_checkpoint(study, tmp_path, capsys):
    path = tmp_path / "new" / "vae.safetensors"
    assert study("train", "--dataset", "digits", "--epochs", 1, "--out", path) == 0
    assert "mean squared error of the held-out reconstructions" in capsys.readouterr().out
    assert training.load(path).event_shape == (1, 8, 8)


def test_what_is_refused(study, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    assert study("train", "--out", tmp_path / "vae.pt") == 1
    assert "must end in .safetensors" in capsys.readouterr().err
    (tmp_path / "folder.safetensors").mkdir()
    assert study("train", "--out", tmp_path / "folder.safetensors") == 1
    assert "is a folder; name a file" in capsys.readouterr().err
    (tmp_path / "folder.safetensors").rmdir()
    assert study("digits", "--out", __file__) == 1
    assert "is a file; give a folder" in capsys.readouterr().err
    assert study("train", "--out", tmp_path / "vae.safetensors", "--data", tmp_path) == 1
    assert "no IDX files of mnist in" in capsys.readouterr().err
    out = tmp_path / "vae.safetensors"
    assert study("train", "--dataset", "digits", "--beta", 0, "--out", out) == 1
    assert "beta must be positive, got 0.0" in capsys.readouterr().err
    assert study("digits", "--out", "x", "--bogus", 1) == 2
    assert "bogus" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

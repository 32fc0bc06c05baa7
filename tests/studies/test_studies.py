"""The studies from the shell, as the README shows them, with less training."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from models import checkpoints, datasets, training
from models.vae import MLPVAE
from pullback import archive
from studies import digits
from studies.sweep import betas
from studies.train import evaluate
from tests.models.test_celeba import make_folder
from tests.studies.shell import run


def test_digits_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "EPOCHS", 2)
    for name in ("one", "two"):
        assert run("digits", "--out", tmp_path / name) == 0
    assert "450 of 450 images have all eigenpairs converged" in capsys.readouterr().out
    one, two = archive.read(tmp_path / "one"), archive.read(tmp_path / "two")
    assert one["eigenvalues"].shape == (450, 5)
    for column, values in one.items():
        np.testing.assert_array_equal(values, two[column])
    found = {path.name for path in (tmp_path / "one").iterdir()}
    assert found == {"manifest.json", "shards", "archive.h5", "vae.safetensors"} | {
        "digits.png",
        "digits.pdf",
    }
    with Image.open(tmp_path / "one" / "digits.png") as picture:
        assert picture.width > 600
    # Into the same folder: nothing is scored again. With another seed: refused.
    assert run("digits", "--out", tmp_path / "one") == 0
    capsys.readouterr()
    assert run("digits", "--out", tmp_path / "one", "--seed", 1) == 1
    assert "holds another run" in capsys.readouterr().err


def test_train_writes_a_checkpoint(tmp_path, capsys):
    path = tmp_path / "new" / "vae.safetensors"
    assert run("train", "--dataset", "digits", "--epochs", 1, "--out", path) == 0
    assert "mean squared error of the held-out reconstructions" in capsys.readouterr().out
    assert training.load(path).event_shape == (1, 8, 8)


def test_train_takes_the_other_objectives(tmp_path):
    path = tmp_path / "vae.safetensors"
    options = ["--mixup", 0.5, "--schedule", "cosine", "--learned_variance", "true"]
    command = ["train", "--dataset", "digits", "--epochs", 1, "--out", path, *options]
    assert run(*command, "--objective", "tcvae") == 0
    assert training.load(path).config["learned_variance"]
    assert checkpoints.read_configuration(path)["training"]["dataset"] == "digits"
    assert run(*command, "--objective", "vae") == 1


def test_train_on_celeba(tmp_path, capsys):
    folder, path = make_folder(tmp_path / "faces"), tmp_path / "vae.safetensors"
    (folder / "img_align_celeba" / "000002.jpg").write_text("not an image")
    command = ["train", "--dataset", "celeba", "--data", folder, "--epochs", 1, "--out", path]
    assert run(*command) == 1
    assert "000002.jpg cannot be read as an image" in capsys.readouterr().err
    assert run(*command, "--skip-bad") == 0
    assert "skipped 1 bad images, 000002.jpg among them" in capsys.readouterr().out
    assert training.load(path).event_shape == (3, 64, 64)
    assert run(*command[:4], tmp_path, "--out", path) == 1
    assert "no CelebA in" in capsys.readouterr().err


def test_the_held_out_error_is_summed_over_batches(monkeypatch):
    images = datasets.load("digits").test
    vae = MLPVAE((1, 8, 8), hidden=(8,), latent=2).eval()
    monkeypatch.setattr(sys.modules["studies.train"], "_BATCH", 64)
    error, variance = evaluate(vae, images, torch.device("cpu"))
    expected = (vae.decode(vae.encode(images)[0]) - images).square().mean().item()
    assert error == pytest.approx(expected)
    assert variance == pytest.approx(images.var(dim=0).mean().item())


def test_a_sweep_skips_what_is_done_and_goes_on_past_failures(tmp_path, capsys):
    folder = tmp_path / "sweep"
    command = ["sweep", "--dataset", "digits", "--out", folder, "--quick", "true", "--seed", 3]
    names = [f"beta-{beta}.safetensors" for beta in ("0.01", "0.316228", "10")]
    folder.mkdir()
    (folder / names[0]).write_text("mine")
    failures = run(*command)
    assert failures.startswith("1 of 3 trainings failed:")
    assert f"{folder / names[0]} is no safetensors file" in failures
    assert (folder / names[0]).read_text() == "mine"
    (folder / names[0]).unlink()
    done = {name: (folder / name).stat().st_mtime_ns for name in names[1:]}
    assert run(*command) == 0
    assert sorted(path.name for path in folder.iterdir()) == names
    assert done == {name: (folder / name).stat().st_mtime_ns for name in names[1:]}
    trained = [checkpoints.read_configuration(folder / name)["training"] for name in names]
    assert [facts["beta"] for facts in trained] == [0.01, 0.316228, 10]
    assert capsys.readouterr().out.count("mean squared error") == 5


def test_the_betas_of_the_paper():
    values = betas(0.01, 10.0, 50)
    assert (len(values), values[0], values[-1]) == (50, 0.01, 10)
    # Two of the β in the authors' published scores.
    assert {0.193070, 1.38950} < set(values)
    assert betas(2.0, 2.0, 1) == [2.0]


def test_what_a_sweep_refuses(tmp_path, capsys):
    out = ["sweep", "--dataset", "digits", "--out", tmp_path / "sweep"]
    refused: list[tuple[list[object], str]] = [
        (["--lowest", 0], "must be positive and finite, in this order, got 0.0 and 10.0"),
        (["--lowest", 11], "in this order, got 11.0 and 10.0"),
        (["--count", 0], "count=0 β from 0.01 to 10.0 make no range"),
        (["--highest", 0.010000001], "too close to tell apart"),
        (["--mixup", -1], "the weight of mixup must be 0 or more, and finite, got -1.0"),
        (["--dataset", "cifar"], "dataset='cifar' is not one of"),
        (["--out", __file__], "is a file; name a folder"),
    ]
    for options, message in refused:
        assert run(*out, *options) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    assert run("train", "--out", tmp_path / "vae.pt") == 1
    assert "must end in .safetensors" in capsys.readouterr().err
    (tmp_path / "folder.safetensors").mkdir()
    assert run("train", "--out", tmp_path / "folder.safetensors") == 1
    assert "is a folder; name a file" in capsys.readouterr().err
    (tmp_path / "folder.safetensors").rmdir()
    assert run("digits", "--out", __file__) == 1
    assert "is a file; give a folder" in capsys.readouterr().err
    assert run("train", "--out", tmp_path / "vae.safetensors", "--data", tmp_path) == 1
    assert "no IDX files of mnist in" in capsys.readouterr().err
    out = tmp_path / "vae.safetensors"
    assert run("train", "--dataset", "digits", "--beta", 0, "--out", out) == 1
    assert "beta must be positive, got 0.0" in capsys.readouterr().err
    assert run("digits", "--out", "x", "--bogus", 1) == 2
    assert "bogus" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""Data sets: bundled, from a folder in the layout of MNIST, and downloaded on request."""

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch

from models import datasets
from tests.jobs.test_sources import write_idx


def make_folder(folder, suffix=""):
    folder.mkdir()
    g = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 4)):
        pixels = g.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", pixels)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count))
    return folder


def test_digits_are_bundled():
    data = datasets.load("digits")
    assert data.train.shape == (1347, 1, 8, 8)
    assert data.test.shape == (450, 1, 8, 8)
    assert data.train.dtype == torch.float32
    assert (data.train.min(), data.train.max()) == (0, 1)
    assert set(data.test_labels.tolist()) == set(range(10))


def test_photos_are_bundled():
    data = datasets.load("photos")
    assert data.train.shape == (2753, 3, 64, 64)
    assert data.test.shape == (904, 3, 64, 64)
    assert data.train.dtype == torch.float32
    assert all(0 <= x.min() < 0.01 and 0.99 < x.max() <= 1 for x in (data.train, data.test))
    for labels in (data.train_labels, data.test_labels):
        assert set(labels.tolist()) == set(range(7))
    again = datasets.load("photos")
    assert all(torch.equal(one, two) for one, two in zip(data, again, strict=True))


def test_crops_of_the_right_part_of_photographs_are_held_out(monkeypatch):
    """In photographs that brighten from left to right, all that is held out is the brighter."""
    ramp = np.broadcast_to(np.arange(500)[:, None] // 2, (150, 500, 3)).astype(np.uint8)
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        monkeypatch.setattr(skimage.data, name, lambda: ramp)
    monkeypatch.setattr(skimage.data, "stereo_motorcycle", lambda: (ramp, ramp, None))
    monkeypatch.setattr(sklearn.datasets, "load_sample_image", lambda name: ramp)
    data = datasets.load("photos")
    assert data.train.max() < data.test.min()


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("nested", [False, True])
def test_idx_folders(tmp_path, suffix, nested, monkeypatch):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    make_folder(tmp_path / "FashionMNIST", suffix)
    folder = tmp_path if nested else tmp_path / "FashionMNIST"
    data = datasets.load("fashion-mnist", folder)
    assert data.train.shape == (6, 1, 28, 28)
    assert data.test_labels.tolist() == [0, 1, 2, 3]
    assert 0 <= data.train.min() <= data.train.max() <= 1
    monkeypatch.setenv("PULLBACK_DATA", str(folder))
    assert torch.equal(datasets.load("fashion-mnist").train, data.train)


def test_a_download_happens_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    asked = []

    def fetch(name, version, return_X_y, as_frame):
        asked.append(name)
        pixels = np.full((60_003, 784), 255.0)
        return pixels, np.array(["7"] * 60_003, dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(FileNotFoundError, match="no IDX files of mnist in a folder"):
        datasets.load("mnist")
    with pytest.raises(FileNotFoundError, match=r"no IDX files of mnist in .*MNIST; name the"):
        datasets.load("mnist", tmp_path)
    assert asked == []
    data = datasets.load("mnist", tmp_path, download=True)
    assert asked == ["mnist_784"]
    assert data.train.shape == (60_000, 1, 28, 28)
    assert data.test.shape == (3, 1, 28, 28)
    assert (data.test == 1).all()
    assert data.test_labels.tolist() == [7, 7, 7]


def test_what_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="dataset='cifar' is not one of 'digits', 'photos', 'mnist'"
    ):
        datasets.load("cifar")
    folder = make_folder(tmp_path / "MNIST")
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no train-labels-idx1-ubyte, with \.gz or"):
        datasets.load("mnist", folder)


def test_the_real_ones(data_folder):
    for name in ("mnist", "fashion-mnist"):
        data = datasets.load(name, data_folder)
        assert data.train.shape == (60_000, 1, 28, 28)
        assert data.test.shape == (10_000, 1, 28, 28)

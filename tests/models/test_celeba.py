"""CelebA from a folder in its layout, made here with Pillow."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import training
from models.celeba import CelebA
from models.vae import ConvVAE

SMALL: dict[str, Any] = {"filters": (4, 4, 4, 4, 8), "units": (16, 16), "latent": 4}


@pytest.fixture
def folder(tmp_path):
    """Twelve smooth images of CelebA's size: nine to train with, one to validate, two to test."""
    return make_folder(tmp_path / "CelebA")


def make_folder(folder):
    (folder / "img_align_celeba").mkdir(parents=True)
    rows, columns = np.mgrid[:218, :178] / 218
    lines = []
    for number in range(12):
        channels = [np.sin(3 * rows + number), np.cos(4 * columns), np.sin(5 * rows * columns)]
        pixels = (127.5 * (1 + np.stack(channels, axis=2))).astype(np.uint8)
        name = f"{number + 1:06d}.jpg"
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
        lines.append(f"{name} {max(0, number - 8) if number < 11 else 2}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def test_the_splits(folder, monkeypatch):
    names = {split: CelebA(folder, split).names for split in ("train", "valid", "test")}
    assert [len(part) for part in names.values()] == [9, 1, 2]
    assert names["test"] == ["000011.jpg", "000012.jpg"]
    monkeypatch.setenv("PULLBACK_DATA", str(folder.parent))
    assert CelebA().shape == (9, 3, 64, 64)


def test_images_are_cut_and_shrunk_as_the_paper_says(folder):
    x = CelebA(folder)[torch.tensor([4, 0])]
    assert x.shape == (2, 3, 64, 64)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    with Image.open(folder / "img_align_celeba" / "000005.jpg") as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    square = pixels[:, :, 35:183, 15:163]
    expected = torch.nn.functional.interpolate(square, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(x[:1], expected, atol=1.5 / 255, rtol=0)


def test_gray_images_have_three_channels_too(folder):
    Image.new("L", (178, 218), 51).save(folder / "img_align_celeba" / "000001.jpg")
    torch.testing.assert_close(CelebA(folder)[torch.tensor([0])], torch.full((1, 3, 64, 64), 0.2))


def test_training_streams_and_resumes(folder, tmp_path, monkeypatch):
    """The same weights as from a tensor, after an interruption too."""
    data = CelebA(folder)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 5, **SMALL}
    expected = training.train(data[torch.arange(9)], ConvVAE, **settings).state_dict()
    read, reads = data._read, []

    def interrupted(index):
        reads.append(index)
        if len(reads) > 12:
            raise KeyboardInterrupt
        return read(index)

    monkeypatch.setattr(data, "_read", interrupted)
    path = tmp_path / "vae.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training.train(data, ConvVAE, checkpoint=path, **settings)
    found = training.train(CelebA(folder), ConvVAE, checkpoint=path, **settings).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected | found)


def test_another_list_of_images_is_another_training(folder, tmp_path):
    path = tmp_path / "vae.safetensors"
    settings: dict[str, Any] = {"epochs": 1, **SMALL}
    training.train(CelebA(folder), ConvVAE, checkpoint=path, **settings)
    (folder / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(FileExistsError, match=r"holds another training: training\.images was"):
        training.train(CelebA(folder, skip_bad=True), ConvVAE, checkpoint=path, **settings)


def test_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no CelebA in a folder .*; get img_align_celeba"):
        CelebA()
    (tmp_path / "img_align_celeba").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no CelebA in .* or .*CelebA; get .* unpack the"):
        CelebA(tmp_path)


def test_an_absent_image(folder):
    for number in (3, 5):
        (folder / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of the 9 .* \(the first is 000003.jpg\)"):
        CelebA(folder)
    data = CelebA(folder, skip_bad=True)
    assert len(data) == 7
    assert data.skipped == {"000003.jpg", "000005.jpg"}
    assert CelebA(folder, "test").skipped == set()


def test_a_corrupt_image(folder):
    bad = folder / "img_align_celeba" / "000002.jpg"
    bad.write_bytes(bad.read_bytes()[:2000])
    everything = torch.arange(9)
    with pytest.raises(ValueError, match=r"000002\.jpg cannot be read as an image: .*truncated"):
        CelebA(folder)[everything]
    data = CelebA(folder, skip_bad=True)
    for _ in range(2):
        assert data[everything].shape == (8, 3, 64, 64)
    assert data.skipped == {"000002.jpg"}
    assert data[torch.tensor([1])].shape == (0, 3, 64, 64)
    assert training.train(data, ConvVAE, epochs=1, batch_size=3, **SMALL)
    bad.write_text("not an image")
    with pytest.raises(ValueError, match=r"000002\.jpg cannot be read as an image"):
        training.train(CelebA(folder), ConvVAE, epochs=1, **SMALL)


def test_nothing_but_corrupt_images(folder):
    for image in (folder / "img_align_celeba").iterdir():
        image.write_text("not an image")
    with pytest.raises(ValueError, match="no step of an epoch had two images that can be read"):
        training.train(CelebA(folder, skip_bad=True), ConvVAE, epochs=1, **SMALL)


def test_what_is_refused(folder):
    with pytest.raises(ValueError, match="split='all' is not one of 'train', 'valid', 'test'"):
        CelebA(folder, "all")
    Image.new("RGB", (147, 218)).save(folder / "img_align_celeba" / "000001.jpg")
    with pytest.raises(ValueError, match="has 147×218 pixels; at least 148×148 are needed"):
        CelebA(folder)[torch.tensor([0])]
    partition = folder / "list_eval_partition.txt"
    partition.write_text("000001.jpg 0\n\n000002.jpg 3\n")
    with pytest.raises(ValueError, match=r"line 3 of .*txt is '000002.jpg 3'; a file name and 0, "):
        CelebA(folder)
    partition.write_text("000001.jpg 0\n")
    with pytest.raises(ValueError, match="has no images of the test split"):
        CelebA(folder, "test")

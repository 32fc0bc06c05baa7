"""Data sets of PyTorch, scored as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import pullback as pb
from pullback import archive
from pullback.jobs import Framing, from_array
from pullback.jobs.datasets import from_dataset
from tests.shell import refused, run, score


class Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def linear():
    return pb.as_map(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), "mean")


def test_a_dataset_scores_as_its_array(tmp_path):
    x, labels = torch.rand(7, 3, 2, 2), torch.arange(7) * 3
    encoder, settings = linear(), pb.jobs.Settings(k=2)
    dataset = TensorDataset(x, labels)
    pb.score_images(encoder, dataset, tmp_path / "a", settings, shard_size=3, progress=False)
    array = from_array(Path("memory"), x.numpy(), labels.numpy())
    pb.score_images(encoder, array, tmp_path / "b", settings, shard_size=3, progress=False)
    a, b = archive.read(tmp_path / "a"), archive.read(tmp_path / "b")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(a["label"], labels)


def test_what_an_image_is():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    expected = (pixels.transpose(2, 0, 1) / np.float32(255))[None]
    chw = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    for image in (Image.fromarray(pixels), chw, chw.numpy(), (chw, "a name"), [chw, 1.5]):
        images = from_dataset(Items(image))
        assert images.labels is None
        np.testing.assert_allclose(images.read(0, 1), expected, rtol=1e-6)
    assert from_dataset(Items(chw.double())).read(0, 1).dtype == np.float64
    assert from_dataset(Items(chw.bfloat16())).read(0, 1).dtype == np.float32
    framed = from_dataset(Items(Image.fromarray(pixels)), Framing(crop=2, resize=1))
    assert framed.event_shape == (3, 1, 1)
    assert framed.facts["crop"] == "2"


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class Random(Items):
    def __getitem__(self, index):
        return torch.rand(3)


class Failing(Items):
    def __getitem__(self, index):
        return 1 / 0


@pytest.mark.parametrize(
    ("dataset", "kind", "message"),
    [
        (
            Stream(),
            TypeError,
            "a length and numbered items is needed, got Stream",
        ),
        (Items(), ValueError, "Items has no items"),
        (Items({"image": 1}), TypeError, "item 0 of Items is dict; an image as tensor, array"),
        (Items(torch.arange(3)), TypeError, "holds int64 values; uint8"),
        (Random(1), ValueError, "another each time it is read; turn random transforms off"),
        (Failing(1), ValueError, "item 0 of Failing cannot be read: ZeroDivisionError"),
    ],
)
def test_datasets_that_are_refused(dataset, kind, message):
    with pytest.raises(kind, match=message):
        from_dataset(dataset)


def test_items_that_differ():
    images = from_dataset(Items(torch.rand(3), torch.rand(4)))
    with pytest.raises(ValueError, match=r"item 1 of Items is float32 of shape \(4,\) but item 0"):
        images.read(0, 2)
    images = from_dataset(Items((torch.rand(3), 1), torch.rand(3)))
    with pytest.raises(ValueError, match="item 1 of Items has no integer label, but item 0 has"):
        images.read(0, 2)
    with pytest.raises(ValueError, match="crop and resize are for images of Pillow"):
        from_dataset(Items(torch.rand(3)), Framing(resize=2))


DATA = """
import torch
from torch.utils.data import TensorDataset

def made():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(5, 4, 4, generator=generator), torch.arange(5))

def number():
    return 3
"""


def test_a_factory_on_the_command_line(place, capsys):
    (place / "mydata.py").write_text(DATA)
    for out, spec in (("a", "mydata:made"), ("b", "mydata.py:made")):
        assert score(out=out, data=spec) == 0
        np.testing.assert_array_equal(archive.read(out)["label"], np.arange(5))
    assert score(out="a", data="mydata:made") == 0
    refused(capsys, score(out="c", data="mydata.py:number"), "items is needed, got int")
    refused(capsys, score(out="c", data="mydata.py:none"), "has no callable 'none'; it has")
    refused(capsys, score("declared", "c", "--glob", "*", data="mydata:made"), "is no folder")
    assert run("info", "a") == 0

"""Data sets of PyTorch and of Hugging Face, scored as they are."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import pullback as pb
from pullback import archive
from pullback.jobs import FolderOptions, Framing, from_array, open_images
from pullback.jobs.datasets import from_dataset
from pullback.jobs.images import BadImageError
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
    for wide in (chw.double(), chw.numpy().astype(">f8")):
        assert from_dataset(Items(wide)).read(0, 1).dtype == np.float64
    assert from_dataset(Items(chw.bfloat16())).read(0, 1).dtype == np.float32
    framed = from_dataset(Items(Image.fromarray(pixels)), Framing(crop=2, resize=1))
    assert framed.event_shape == (3, 1, 1)
    assert framed.facts["crop"] == "2"


def test_dictionaries_as_of_hugging_face(tmp_path):
    """Their images, of Pillow or tensors, and labels are those of the same items as tuples."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3), dtype=np.uint8)
    pictures = [Image.fromarray(array) for array in pixels]
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    expected = tensors.numpy() / np.float32(255)
    encoder = linear()
    for out, values in (("a", pictures), ("b", tensors)):
        items = Items(*({"label": 3 * i, "image": v, "id": 7} for i, v in enumerate(values)))
        images = from_dataset(items)
        np.testing.assert_allclose(images.read(0, 5), expected, rtol=1e-6)
        np.testing.assert_array_equal(images.labels, 3 * np.arange(5))
        pb.score_images(encoder, items, tmp_path / out, pb.jobs.Settings(k=2))
        np.testing.assert_array_equal(archive.read(tmp_path / out)["label"], 3 * np.arange(5))
    unlabelled = from_dataset(Items(*({"image": image} for image in pictures)))
    assert unlabelled.labels is None


def test_a_dataset_reaches_another_process():
    images = from_dataset(TensorDataset(torch.rand(5, 3), torch.arange(5)))
    again = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(again.read(1, 4), images.read(1, 4))
    np.testing.assert_array_equal(again.describe(0, 5)["label"], [-1, 1, 2, 3, -1])


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
        (
            {"train": [torch.rand(3)], "test": []},
            TypeError,
            "a length and numbered items is needed, got dict of train, test",
        ),
        (Items(3), TypeError, "item 0 of Items is int; an image as tensor, array"),
        (
            Items({"img": torch.rand(3), "label": 1}),
            TypeError,
            "item 0 of Items is a dictionary with 'img', 'label'; call the image 'image'",
        ),
        (
            Items({"image": {"bytes": b"", "path": None}}),
            TypeError,
            "item 0 of Items is dict; an image as tensor, array or of Pillow, a tuple",
        ),
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


class Lazy(Items):
    """Opens images of Pillow, which are decoded when they are looked at."""

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.items[index]))


def test_an_image_of_pillow_that_is_truncated():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=95)
    whole = written.getvalue()
    images = replace(from_dataset(Lazy(whole, whole[:5000], whole)), skip_bad=True)
    good, bad, last = (part for _, part in images.read_parts(0, 3))
    np.testing.assert_array_equal(good, last)
    assert str(bad).startswith("item 1 of Lazy cannot be read: OSError: image file is truncated")


@pytest.mark.parametrize("other", [torch.arange(3), torch.rand(3).to_sparse(), None, torch.rand(4)])
def test_an_item_of_another_kind_is_skipped(other):
    """Its label, where it has one, is kept; what is not known is -1."""
    images = from_dataset(Items((torch.rand(3), 5), (other, 6), (torch.rand(3), 7)))
    with pytest.raises(ValueError, match="item 1 of Items"):
        images.read(0, 3)
    parts = dict(replace(images, skip_bad=True).read_parts(0, 3))
    assert [type(parts[i]) for i in range(3)] == [np.ndarray, BadImageError, np.ndarray]
    known = 6 if isinstance(other, torch.Tensor) and len(other) == 4 else -1
    np.testing.assert_array_equal(images.describe(0, 3)["label"], [5, known, 7])


@pytest.mark.parametrize("label", [2**63, -(2**63) - 1])
def test_labels_that_are_too_large(tmp_path, label):
    message = f"has the label {label}; labels are integers of 64 bits"
    with pytest.raises(ValueError, match=f"item 0 of Items {message}"):
        from_dataset(Items((torch.rand(3), label)))
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text(f"a.png {label}")
    with pytest.raises(ValueError, match=rf"labels\.txt {message}"):
        open_images(tmp_path, FolderOptions(labels="labels.txt"))
    if label > 0:
        with pytest.raises(ValueError, match=f"memory {message}"):
            from_array(Path("memory"), np.zeros((1, 3)), np.array([label], np.uint64))


DATA = """
import torch
from torch.utils.data import TensorDataset

def made():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(5, 4, 4, generator=generator), torch.arange(5))

def number():
    return 3
"""


def test_a_factory_that_draws_at_random_draws_the_same_in_another_process(place):
    (place / "drawn.py").write_text(DATA.replace("(5, 4, 4, generator=generator)", "(5, 4, 4)"))
    images = open_images("drawn.py:made")
    packed = pickle.dumps(images)
    torch.manual_seed(5)
    np.testing.assert_array_equal(pickle.loads(packed).read(0, 5), images.read(0, 5))
    assert torch.initial_seed() == 5


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

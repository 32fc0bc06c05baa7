"""A shard is a function of encoder, images, manifest and range, whoever computes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pullback as pb
from pullback import archive
from pullback.archive.run import find_failures
from pullback.archive.shards import list_shards
from pullback.jobs import Settings, from_array
from pullback.jobs.images import as_numbers
from pullback.jobs.loading import choose_batch_size
from pullback.jobs.preparation import _choose_shard_size, prepare
from pullback.jobs.shards import pack, score_shard, unpack
from tests.conftest import SmoothEncoder


def parts(tmp_path, count=20):
    encoder = pb.as_map(SmoothEncoder(12, 6), "mean_logvar")
    pixels = np.random.default_rng(0).random((count, 12), dtype=np.float32)
    return encoder, from_array(tmp_path / "x.npy", pixels, np.arange(count))


def test_a_shard_alone_equals_that_of_a_run(tmp_path):
    encoder, images = parts(tmp_path)
    settings = Settings(k=3, directions=True, method="golub-kahan")
    pb.score_images(encoder, images, tmp_path / "run", settings, shard_size=8)
    manifest = prepare(encoder, images, settings, shard_size=8)
    assert manifest == archive.read_manifest(tmp_path / "run")
    last = list(list_shards(tmp_path / "run", manifest))[-1]
    scored = score_shard(encoder, images, manifest, last.layout)
    for name, column in archive.read(tmp_path / "run").items():
        np.testing.assert_array_equal(scored.columns[name], column[16:])


def test_columns_and_layout_agree(tmp_path):
    encoder, images = parts(tmp_path)
    manifest = prepare(encoder, images, Settings(k=3, directions=True), shard_size=8)
    for shard in list_shards(tmp_path, manifest):
        scored = score_shard(encoder, images, manifest, shard.layout, batch_size=3)
        assert scored.columns.keys() == shard.layout.dtypes.keys()
        for name, column in scored.columns.items():
            assert column.shape == shard.layout.shape(name)
            assert column.dtype == shard.layout.dtypes[name]


def test_preparing_reads_two_images_only(tmp_path):
    _, images = parts(tmp_path, 1)
    read = []

    def noted(start, stop):
        read.append((start, stop))
        return np.zeros((stop - start, 12), np.float32)

    million = pb.jobs.Images(images.path, 10**6, (12,), noted)
    prepare(pb.as_map(torch.nn.Linear(12, 6)), million, Settings(k=2))
    assert read == [(0, 2)]


def test_batches_are_larger_for_smaller_images(tmp_path):
    _, images = parts(tmp_path, 1)
    sizes = {
        shape: choose_batch_size(None, replace(images, event_shape=shape), "cpu")
        for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 256, 256))
    }
    assert [*sizes.values()] == [512, 170, 42, 32]
    assert choose_batch_size(None, replace(images, event_shape=(3, 64, 64)), "cuda:1") == 512
    assert choose_batch_size(7, images, "cpu") == 7
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        choose_batch_size(0, images, "cpu")


def test_columns_travel_as_one_tensor():
    columns = {
        "values": torch.randn(4, 3),
        "double": torch.randn(4, dtype=torch.float64),
        "flags": torch.tensor([[True, False]] * 4),
        "directions": torch.randn(4, 2, 5),
        "none": torch.randn(4, 0),
    }
    packed = pack(columns)
    assert packed.shape == (4, 3 + 1 + 2 + 10)
    apart = unpack(packed, columns)
    assert apart.keys() == columns.keys()
    for name, tensor in columns.items():
        assert apart[name].dtype == tensor.dtype
        assert torch.equal(apart[name], tensor)


def test_bytes_become_the_numbers_of_float32_wherever_they_are():
    stored = np.arange(256, dtype=np.uint8).reshape(64, 4)
    images = from_array(Path("here"), stored)
    assert images.read_stored(0, 64).dtype == np.uint8
    ((start, part),) = images.read_parts(0, 64)
    assert start == 0
    np.testing.assert_array_equal(part, stored)
    expected = stored.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(images.read(0, 64), expected)
    np.testing.assert_array_equal(images.read_finite(0, 64), expected)
    for dtype in (torch.float32, torch.float64):
        numbers = as_numbers(torch.from_numpy(stored), dtype)
        assert numbers.dtype == dtype
        np.testing.assert_array_equal(numbers.numpy(), expected.astype(numbers.numpy().dtype))


def test_shards_are_larger_for_smaller_images(tmp_path):
    """A file takes as long whatever is in it; the directions that are stored are what is large."""
    _, images = parts(tmp_path, 1)

    def chosen(shape, **settings):
        sized = replace(images, event_shape=shape)
        return _choose_shard_size(None, sized, Settings(**settings))

    shapes = ((1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 256, 256))
    assert [chosen(shape) for shape in shapes] == [4096, 1365, 512, 512]
    assert chosen((1, 28, 28), directions=True) == 1069
    assert chosen((1, 28, 28), directions=True, k=64) == 512


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bad"), "bad"),
        (RuntimeError("bad"), "bad"),
        (AssertionError("bad"), "AssertionError: bad"),
        (KeyError("bad"), "KeyError: 'bad'"),
        (StopIteration("bad"), "StopIteration: bad"),
    ],
)
def test_an_encoder_that_fails_on_an_image(tmp_path, error, said):
    """What it raises is told with the images that it was given; shards before them stay."""
    net = SmoothEncoder(12, 6)

    def encode(x):
        if (x[:, 0] > 1).any():
            raise error
        return net(x)

    pixels = np.random.default_rng(0).random((20, 12), dtype=np.float32)
    pixels[13, 0] = 2
    images, run = from_array(tmp_path / "x.npy", pixels), tmp_path / "run"
    encoder = pb.as_map(encode, "mean_logvar")
    with pytest.raises((ValueError, RuntimeError)) as told:
        pb.score_images(encoder, images, run, Settings(k=2), shard_size=8, batch_size=4)
    assert str(told.value) == f"{said} (in images 12 to 15)"
    assert len(archive.read(run, ["trace"])["trace"]) == 8


@pytest.mark.parametrize(
    "settings",
    [
        {"k": np.int64(2), "seed": np.uint8(3), "tol": np.float32(1e-3), "entropy_tol": 1},
        {"k": 2, "directions": np.bool_(True), "latents": np.bool_(False)},
    ],
)
def test_a_run_resumes_whatever_types_its_settings_have(tmp_path, settings):
    """The manifest that is read says the same as what was written."""
    encoder, images = parts(tmp_path)
    facts: dict = {"crops": (1, 2), 3: None, "rate": np.float64(0.5)}
    for _ in range(2):
        chosen = Settings(**settings)
        pb.score_images(encoder, images, tmp_path / "run", chosen, provenance=facts)
    manifest = archive.read_manifest(tmp_path / "run")
    assert manifest["encoder"]["crops"] == [1, 2]
    assert manifest["score"]["k"] == 2


@pytest.mark.parametrize("bad", [[0], [1], [0, 1, 2, 3]])
def test_first_images_on_which_an_encoder_is_not_finite(tmp_path, bad):
    """They fail as any others do; what is wrong on all of the first is refused."""
    pixels = np.random.default_rng(0).random((40, 12), dtype=np.float32)
    pixels[bad, 0] = -1
    net = SmoothEncoder(12, 6)

    def encode(x):
        return net(x * x[:, :1].sqrt() ** 2)

    images = from_array(tmp_path / "x.npy", pixels)
    pb.score_images(pb.as_map(encode, "mean_logvar"), images, tmp_path / "run", Settings(k=2))
    failed = archive.read(tmp_path / "run", ["failed"])["failed"]
    np.testing.assert_array_equal(np.flatnonzero(failed), bad)
    pixels[:, 0] = -1
    with pytest.raises(ValueError, match=r"mean holds NaN or infinite .*the first images"):
        pb.score_images(pb.as_map(encode, "mean_logvar"), images, tmp_path / "none", Settings(k=2))
    assert not (tmp_path / "none").exists()


def test_the_dtype_is_that_of_whatever_tensors_an_encoder_has(tmp_path):
    """Parameters first, then buffers, then what a function closes over."""
    weights = torch.rand(12, 3, dtype=torch.float64)

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weights", weights)

        def forward(self, x):
            return x @ self.weights

    expected = torch.linalg.svdvals(weights)[:2] ** 2
    _, images = parts(tmp_path)
    for name, encoder in (("buffer", Fixed()), ("function", lambda x: x @ weights)):
        pb.score_images(pb.as_map(encoder, "mean"), images, tmp_path / name, Settings(k=2))
        found = archive.read(tmp_path / name, "eigenvalues")["eigenvalues"]
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected.expand(20, 2), rtol=1e-12)


@pytest.mark.parametrize("method", ["dual", "golub-kahan", "lanczos"])
@pytest.mark.parametrize("size", [-60.0, 60.0])
def test_images_whose_eigenvalues_have_no_place_in_the_dtype(tmp_path, method, size):
    """Of an encoder that is saturated there, or explodes: they fail, and the others do not."""
    weights = torch.rand(12, 6)
    pixels = np.random.default_rng(0).random((10, 12), dtype=np.float32)
    pixels[[3, 7], 0] = size

    def encode(x):
        return x[:, :1].exp() * (x[:, 1:] @ weights[1:].to(x.dtype))

    encoder = pb.as_map(encode, "mean")
    images, run = from_array(tmp_path / "x.npy", pixels), tmp_path / "run"
    pb.score_images(encoder, images, run, Settings(k=2, method=method))
    columns = archive.read(run, ["failed", "eigenvalues"])
    np.testing.assert_array_equal(np.flatnonzero(columns["failed"]), [3, 7])
    assert find_failures(run)["3"].startswith("eigenvalues, about 1e")
    for i in (0, 1, 9):
        jacobian = torch.func.jacrev(encode)(torch.from_numpy(pixels[i : i + 1]).double())
        expected = torch.linalg.svdvals(jacobian.reshape(6, 12))[:2] ** 2
        np.testing.assert_allclose(columns["eigenvalues"][i], expected, rtol=1e-4)


def test_an_encoder_that_needs_no_declaration(tmp_path):
    """As for the scores of a batch."""
    _, images = parts(tmp_path)
    encoder = torch.nn.Linear(12, 6)
    pb.score_images(encoder, images, tmp_path / "run", Settings(k=2))
    pb.score_images(pb.as_map(encoder), images, tmp_path / "run", Settings(k=2))
    with pytest.raises(TypeError, match="a map must be a module or a function, got str"):
        pb.score_images("encoders.py:declared", images, tmp_path / "x")  # type: ignore[arg-type]


def test_a_device_by_its_name_or_itself(tmp_path):
    encoder, images = parts(tmp_path)
    for device in ("cpu", torch.device("cpu")):
        pb.score_images(encoder, images, tmp_path / "run", Settings(k=2), device=device)


def test_what_a_manifest_cannot_hold_is_refused(tmp_path):
    encoder, images = parts(tmp_path)
    for value in (float("nan"), Path("x"), np.arange(3)):
        with pytest.raises(TypeError, match="provenance must be a dictionary that JSON can hold"):
            prepare(encoder, images, Settings(k=2), provenance={"a": value})
    with pytest.raises(TypeError, match="latents must be True or False, got 'no'"):
        Settings(latents="no")  # type: ignore[arg-type]

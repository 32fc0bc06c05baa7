"""Workers of Ray: the archive is the serial one, whatever happens to them on the way."""

import logging
import os
import re
import sys
import textwrap
import threading
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import pullback as pb
from pullback import archive
from pullback.archive.run import find_origin
from pullback.jobs import Settings, Workers, from_array
from tests.conftest import SmoothEncoder
from tests.shell import names, refused, run, score

FORTY = torch.rand(40, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ray():
    """One for all tests, which is left as it was found."""
    found = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


def equal(a, b):
    a, b = archive.read(a), archive.read(b)
    assert a.keys() == b.keys()
    for name, column in a.items():
        np.testing.assert_array_equal(column, b[name])


def test_two_workers_make_the_archive_of_one_process(place, ray, capsys):
    options = ("--shard-size", 4, "-k", 3, "--batch-size", 3)
    assert score("declared", "serial", *options) == 0
    together = ("--workers", 2, "--threads", torch.get_num_threads())
    assert score("declared", "run", *options, *together) == 0
    assert "30 of 30 images have all eigenpairs converged" in capsys.readouterr().out
    equal("run", "serial")
    assert names("run") == ["archive.h5", "manifest.json", "shards"]
    assert names("run/shards") == [f"part-{i:06d}.h5" for i in range(8)]
    (maker,) = find_origin("run").makers
    assert "default_worker" not in maker["command"]
    assert maker["shards"] == 8
    assert ray.is_initialized()


def test_an_encoder_and_a_dataset_of_python(tmp_path, ray):
    """What is defined in the program itself reaches workers, and those that read for them."""
    net = SmoothEncoder(12, 5)
    encoder = pb.as_map(lambda x: net(x / 2), "mean_logvar")
    dataset = TensorDataset(FORTY, 3 * torch.arange(40))
    settings = Settings(k=2)
    pb.score_images(encoder, dataset, tmp_path / "a", settings, shard_size=16, batch_size=8)
    workers = Workers(1, threads=torch.get_num_threads())
    pb.score_images(
        encoder,
        dataset,
        tmp_path / "b",
        settings,
        shard_size=16,
        batch_size=8,
        workers=workers,
        loaders=1,
    )
    equal(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(archive.read(tmp_path / "b")["label"], 3 * np.arange(40))


FATAL = """
    import os, signal
    from pathlib import Path
    import pullback as pb
    from encoders import Pair

    class Fatal(Pair):
        def forward(self, x):
            left = Path("left")
            if (x[:, 0, 0] == 17).any() and left.exists() and int(left.read_text()) > 0:
                left.write_text(str(int(left.read_text()) - 1))
                os.kill(os.getpid(), signal.SIGKILL)
            return self.encode(x)

    def fatal():
        return pb.as_map(Fatal(), "mean_logvar")
"""


@pytest.fixture
def fatal(place):
    """An encoder that kills its process at image 17, as often as a file says."""
    (place / "fatal.py").write_text(textwrap.dedent(FATAL))
    images = np.random.default_rng(0).random((30, 4, 4), dtype=np.float32)
    images[17, 0, 0] = 17
    np.save("data.npy", images)
    command = ["score", "--encoder", "fatal.py:fatal", "--data", "data.npy", "--shard-size", 5]
    return [*command, "-k", 2]


def test_a_worker_that_is_killed_in_the_midst_of_a_shard(fatal, ray, place, caplog):
    assert run(*fatal, "--out", "serial") == 0
    (place / "left").write_text("1")
    threads = torch.get_num_threads()
    assert run(*fatal, "--out", "run", "--workers", 2, "--threads", threads) == 0
    # What the worker had just finished may be lost with it.
    assert re.search("a worker has ended in shard [23], and another takes over: ", caplog.text)
    equal("run", "serial")


def test_a_shard_that_kills_every_worker(fatal, ray, place, capsys):
    (place / "left").write_text("9")
    refused(capsys, run(*fatal, "--out", "run", "--workers", 1), "3 workers have ended in shard 3")
    assert (place / "left").read_text() == "6"


def test_what_a_worker_raises_is_told_as_it_is(place, ray, capsys):
    bad = np.zeros((9, 4, 4), np.float32)
    bad[7] = np.nan
    np.save("nan.npy", bad)
    status = score("declared", "run", "--shard-size", 3, "--workers", 1, data="nan.npy")
    refused(capsys, status, "pullback score: image 7 of nan.npy holds NaN or infinite values")


SMALL = """
    import warnings
    import pullback as pb

    def small():
        def encode(x):
            if len(x) > 5:
                warnings.warn("too many")
                raise MemoryError()
            return x.flatten(1) * 2
        return encode

    def other():
        import os
        import torch
        torch.manual_seed(os.getpid())
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
"""


def test_what_workers_log_is_told_once(place, ray, caplog):
    (place / "small.py").write_text(textwrap.dedent(SMALL))
    command = ["score", "--encoder", "small.py:small", "--data", "data.npz", "--out", "run"]
    caplog.set_level(logging.WARNING)
    assert run(*command, "--batch-size", 8, "--shard-size", 8, "--workers", 2) == 0
    said = [m for m in caplog.messages if "out of memory" in m or "too many" in m]
    assert said == ["out of memory: going on with batches of 4 images", "UserWarning: too many"]


def test_a_worker_that_would_score_something_else(place, ray, capsys):
    (place / "small.py").write_text(textwrap.dedent(SMALL))
    command = ["score", "--encoder", "small.py:other", "--data", "data.npz", "--out", "run"]
    refused(
        capsys,
        run(*command, "--workers", 1),
        "pullback score: a worker on ",
        "cannot begin: it would score another run: encoder.weights was",
    )


def test_encoders_that_cannot_be_sent(tmp_path, ray, monkeypatch):
    images, lock = from_array(tmp_path / "x", FORTY.numpy()), threading.Lock()

    def locked(x):
        with lock:
            return x.flatten(1) * 2

    with pytest.raises(TypeError, match="the encoder cannot be sent to workers: cannot pickle"):
        pb.score_images(pb.as_map(locked), images, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()

    here = ModuleType("only_here")
    exec("def double(x):\n    return x.flatten(1) * 2\n", vars(here))
    monkeypatch.setitem(sys.modules, "only_here", here)
    message = "cannot begin: the encoder cannot be made: ModuleNotFoundError: No module named 'onl"
    with pytest.raises(ValueError, match=message):
        pb.score_images(pb.as_map(here.double), images, tmp_path / "run", workers=1)


def test_ray_is_not_installed(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status = score("declared", "run", "--workers", 2)
    refused(capsys, status, "workers need Ray, which is not installed", "pip install 'pullback[ray")
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", 0], "workers=0 must be at least 1"),
        (["--workers", 2, "--threads", 0], "threads=0 must be at least 1"),
        (
            ["--workers", 2, "--gpus", 1],
            "gpus=1.0 are for workers on a GPU, and the device is 'cpu",
        ),
        (["--workers", 2, "--gpus", 1.5], "gpus=1.5 must be a whole number, or less than 1"),
        (["--workers", 2, "--device", "cuda:1"], "device 'cuda:1' must be 'cuda' for workers"),
        (["--workers", 2, "--ray-address", "here"], "a Ray is HOST:PORT or auto, got 'here'"),
        (["--workers", 2, "--ray-address", "127.0.0.1:9"], "there is no Ray at 127.0.0.1:9: "),
        (["--threads", 2], "--threads is about workers; give --workers N, too"),
        (["--ray-address", "auto"], "--ray-address is about workers; give --workers N, too"),
        (["--gpus", 0.5], "--gpus is about workers; give --workers N, too"),
    ],
)
def test_workers_that_there_cannot_be(place, capsys, options, message):
    refused(capsys, score("declared", "run", *options), message)
    assert not (place / "run").exists()


def test_what_a_worker_takes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Workers(2, threads=3).on("cuda").gpus == 1
    assert Workers(4, gpus=0.5).on("cuda").gpus == 0.5
    assert Workers(2, threads=3).on("cpu").gpus == 0
    assert Workers(100).on("cpu").threads == 1
    for workers in (Workers(5, gpus=0.5), Workers(3), Workers(2, gpus=2)):
        with pytest.raises(ValueError, match="GPUs each are too many: 2 are here"):
            workers.on("cuda")

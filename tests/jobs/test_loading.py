"""Images read by other processes: the same ones, the same errors, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset, get_worker_info

import pullback as pb
from pullback import archive
from pullback.jobs import Images, Settings, open_images
from pullback.jobs.loading import choose_loaders, cut, reading, usable_cores
from tests.shell import names, refused, run, score

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def save_pictures(folder, count):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")


def linear(inputs=16):
    return pb.as_map(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, 4)), "mean")


def equal(a, b):
    a, b = archive.read(a), archive.read(b)
    assert a.keys() == b.keys()
    for name, column in a.items():
        np.testing.assert_array_equal(column, b[name])


@pytest.mark.parametrize("loaders", [1, 2, usable_cores() + 1])
def test_files_that_other_processes_read(place, loaders):
    """Across shards, with labels, names, and an image that is skipped."""
    save_pictures(place / "folder", 23)
    (place / "folder" / "7.png").write_bytes(b"no image")
    (place / "labels.txt").write_text("".join(f"{i}.png {3 * i}\n" for i in range(23)))
    options = ["--skip-bad", "--labels", "labels.txt", "--shard-size", 9, "--batch-size", 4]
    assert score("declared", "here", *options, data="folder") == 3
    assert score("declared", "there", *options, "--loaders", loaders, data="folder") == 3
    equal("here", "there")
    np.testing.assert_array_equal(archive.read("there")["label"], 3 * np.arange(23))


def test_labels_that_come_with_the_images(tmp_path):
    encoder, settings = linear(3), Settings(k=2)
    dataset = TensorDataset(torch.rand(17, 3), 5 * torch.arange(17))
    before = torch.get_rng_state()
    for loaders in (0, 2):
        folder = tmp_path / str(loaders)
        pb.score_images(encoder, dataset, folder, settings, batch_size=4, loaders=loaders)
    equal(tmp_path / "0", tmp_path / "2")
    np.testing.assert_array_equal(archive.read(tmp_path / "2")["label"], 5 * np.arange(17))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_made_on_another_device_by_default(tmp_path):
    encoder, images = linear(3), torch.rand(17, 3)
    for loaders in (0, 1):
        with torch.device("meta"):
            folder, dataset = tmp_path / str(loaders), TensorDataset(images)
            pb.score_images(encoder, dataset, folder, Settings(k=2), loaders=loaders)
    equal(tmp_path / "0", tmp_path / "1")


def test_a_file_that_another_process_cannot_read(place, capsys):
    save_pictures(place / "folder", 9)
    (place / "folder" / "6.png").write_bytes(b"no image")
    status = score("declared", "run", "--batch-size", 2, "--loaders", 2, data="folder")
    refused(capsys, status, "pullback score: folder/6.png cannot be read as an image: ")
    (place / "folder" / "6.png").write_bytes((place / "folder" / "5.png").read_bytes())
    assert score("declared", "other", "--batch-size", 2, "--loaders", 2, data="folder") == 0


class Fatal(Dataset):
    """Whoever reads item 5 ahead is killed."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((3,), float(index))


def test_a_process_that_is_killed_while_it_reads(tmp_path):
    encoder, message = linear(3), "a process that reads images has ended, perhaps for want of mem"
    with pytest.raises(RuntimeError, match=message):
        pb.score_images(encoder, Fatal(), tmp_path / "run", Settings(k=2), batch_size=2, loaders=2)
    pb.score_images(encoder, Fatal(), tmp_path / "run", Settings(k=2), batch_size=2)


class Broken:
    """Processes of which one has ended with a batch half on its way."""

    def __init__(self, *_, **__):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        raise EOFError

    def _shutdown_workers(self):
        pass


def test_a_process_that_is_killed_while_it_hands_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pullback.jobs.loading.DataLoader", Broken)
    message = "a process that reads images has ended, .*: a batch was on its way"
    with pytest.raises(RuntimeError, match=message):
        pb.score_images(linear(3), Fatal(), tmp_path / "run", Settings(k=2), loaders=2)


SPAWN = """
    import multiprocessing, sys
    import torch
    from torch.utils.data import TensorDataset
    import pullback as pb

    class Local(TensorDataset):
        def __reduce__(self):
            raise TypeError("it is bound to this process")

    if __name__ == "__main__":
        multiprocessing.set_start_method("spawn")
        encoder = pb.as_map(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)))
        settings = pb.jobs.Settings(k=2)
        images = pb.jobs.open_images("folder")
        pb.score_images(encoder, images, "there", settings, batch_size=4, loaders=1)
        pb.score_images(encoder, images, "here", settings, batch_size=4)
        try:
            pb.score_images(encoder, Local(torch.rand(5, 16)), "run", settings, loaders=1)
        except TypeError as error:
            print(error)
"""


def test_processes_that_start_anew(place):
    """As they do on Windows and macOS: what reads is sent to them."""

    save_pictures(place / "folder", 9)
    (place / "spawn.py").write_text(textwrap.dedent(SPAWN))
    done = subprocess.run(
        [sys.executable, "spawn.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (
        "the images cannot be sent to the processes that read them: it is bound to this process; "
        "without loaders, they are read in this one\n"
    ), done.stderr
    equal("here", "there")


SLOW = """
    import time
    import torch

    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 100

        def __getitem__(self, index):
            time.sleep(0.05)
            return torch.full((4, 4), float(index))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_leave_no_process_behind(place, name, status):

    (place / "slow.py").write_text(textwrap.dedent(SLOW))
    command = ["score", "--encoder", "encoders.py:declared", "--data", "slow.py:Slow"]
    command += ["--out", "run", "--shard-size", "4", "--batch-size", "2", "--loaders", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pullback", *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list((place / "run" / "shards").glob("part-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (
        status,
        "interrupted; the same command again resumes the run\n",
    )
    left = subprocess.run(
        ["ps", "--no-headers", "-s", str(process.pid), "-o", "stat="],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert [state for state in left if not state.startswith("Z")] == []
    assert names("run") == ["manifest.json", "shards"]


def test_how_many_read_unless_the_user_says_so(place, monkeypatch, capsys):
    save_pictures(place / "folder", 3)
    files, array = open_images("folder"), open_images("data.npz")
    monkeypatch.setattr("pullback.jobs.loading.usable_cores", lambda: 6)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_loaders(None, files, gpu) == 6
    assert choose_loaders(None, files, cpu) == choose_loaders(None, array, gpu) == 0
    assert choose_loaders(3, array, cpu) == 3
    refused(capsys, score("declared", "run", "--loaders", -1), "loaders=-1 must be at least 0")
    assert not (place / "run").exists()


def test_images_that_only_say_how_they_are_read(tmp_path):
    """Anything with a function that reads a slice, such as a database, read by others."""
    images = Images(Path("mine"), 9, (3,), lambda a, b: np.ones((b - a, 3), np.float32))
    pb.score_images(linear(3), images, tmp_path / "run", Settings(k=2), loaders=1)
    assert len(archive.read(tmp_path / "run")["trace"]) == 9
    assert run("info", tmp_path / "run") == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_copies_from_pinned_memory(place):
    """And from that of the processes that read, where it would wait for each copy."""
    save_pictures(place / "folder", 9)
    images = open_images("folder")
    with reading(images, 1, torch.device("cuda")) as reader:
        for batch, (start, stop) in zip(reader.read(cut(0, 9, 4)), cut(0, 9, 4), strict=True):
            ((first, part),) = batch.parts
            assert first == start
            assert isinstance(part, torch.Tensor)
            assert part.is_pinned()
            np.testing.assert_array_equal(part.numpy(), images.read(start, stop))
    encoder, settings = linear(), Settings(k=2)
    for loaders in (0, 2):
        pb.score_images(encoder, images, str(loaders), settings, device="cuda", loaders=loaders)
    equal("0", "2")

"""Several processes with a share of the shards each, merging, and what is said on the way."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pullback import __version__, archive
from pullback.archive.signals import postpone_signals
from pullback.archive.summary import Doubts
from tests.shell import names, refused, run, score

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pullback"]
SCORE = ["score", "--encoder", "encoders.py:declared", "--data", "data.npz", "--out", "run"]


def test_shares_make_up_the_run(place, capsys):
    options = ("--shard-size", 4, "-k", 3)
    for share, finished in (("2/3", 3), ("3/3", 5), ("2/3", 5), ("1/3", 8)):
        assert score("declared", "run", *options, "--shards", share) == 0
        assert len(names("run/shards")) == finished
        assert f"share {share} of 30 images is scored; when all are" in capsys.readouterr().out
    assert names("run") == ["manifest.json", "shards"]
    assert run("merge", "run") == 0
    assert score("declared", "whole", *options) == 0
    shares, whole = archive.read("run"), archive.read("whole")
    for name, column in whole.items():
        np.testing.assert_array_equal(shares[name], column)


def test_a_share_without_a_shard_says_so(place, caplog):
    """Else a job array of many machines computes on one, and nobody hears of it."""
    assert score("declared", "run", "--shards", "1/2") == 0
    assert "nothing to do" not in caplog.text
    assert score("declared", "run", "--shards", "2/2") == 0
    assert "nothing to do in this share: the run has 1 shard, of up to 4096 images" in caplog.text


@pytest.mark.parametrize("share", ["0/3", "4/3", "3", "a/b", "1/", "-1/3"])
def test_shares_that_there_are_not(place, capsys, share):
    refused(capsys, score("declared", "run", f"--shards={share}"), f"--shards {share} must be I/N")


def test_a_run_in_one_process_is_merged_once(place):
    assert score("declared", "run", "--no-merge") == 0
    assert names("run") == ["manifest.json", "shards"]
    assert score() == 0
    before = (place / "run" / "archive.h5").stat().st_ino
    assert score() == 0
    assert (place / "run" / "archive.h5").stat().st_ino == before
    (place / "run" / "archive.h5").write_bytes(b"damaged")
    assert score() == 0
    assert len(archive.read("run")["trace"]) == 30


def test_quiet(place, capsys, caplog):
    assert score("declared", "run", "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_progress_is_a_line_a_minute_where_there_is_no_terminal(place, capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    assert score("declared", "run", "--batch-size", 3) == 0
    assert capsys.readouterr().err == ""
    lines = [line for line in caplog.messages if "per second" in line]
    assert lines[0] == "9 of 30 images, 0.12 per second"
    assert len(lines) == 3


def test_the_command_by_its_module_and_its_version():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


@pytest.mark.parametrize("command", [COMMAND, [sys.executable, "pullback"]])
def test_ctrl_c_while_importing(place, command):
    """By a torch that takes for ever to import; as a module, and as a script of that name."""
    (place / "torch.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(100)\n")
    (place / "pullback").write_text("from pullback.cli import main\n")
    process = subprocess.Popen(
        [*command, "info", "run"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "interrupted\n")


def test_importing_the_library_leaves_ctrl_c_alone():
    code = "import signal, pullback; print(signal.getsignal(signal.SIGINT).__name__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout == "default_int_handler\n"


def test_a_closed_pipe_is_no_error(place):
    score()
    command = f"{sys.executable} -m pullback info run | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_that_is_told_to_stop(place, name):
    """By a signal that comes while a file is written, where an exception would crash HDF5."""
    (place / "stopped.py").write_text(
        "import os, signal, sys\n"
        "from pullback import cli\n"
        "real = os.pwrite\n"
        "def stop(*arguments):\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "    return real(*arguments)\n"
        "os.pwrite = stop\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "stopped.py", *SCORE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == {"SIGTERM": 143, "SIGHUP": 129}[name]
    assert done.stderr.splitlines() == ["interrupted; the same command again resumes the run"]
    assert names("run/shards") == []
    assert score() == 0


def test_a_signal_whose_exception_python_drops(place):
    """As it does with one that is raised within the clean-up of an object."""
    (place / "dropping.py").write_text(
        "import os, signal, time\n"
        "from encoders import Pair\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.1)\n"
        "def dropping():\n"
        "    last = Last()\n"
        "    del last\n"
        "    for _ in range(600):\n"
        "        time.sleep(0.1)\n"
        "    return Pair()\n"
    )
    command = [*COMMAND, "score", "--encoder", "dropping.py:dropping", *SCORE[3:]]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted; the same command again resumes the run\n"


def test_images_where_the_encoder_is_not_finite(place, capsys, caplog):
    images = np.random.default_rng(0).random((20, 4, 4), dtype=np.float32) / 100
    images[13], images[17] = 1, 2
    np.save("late.npy", images)
    options = ("--batch-size", 8, "--shard-size", 10)
    assert score("overflowing", "run", *options, data="late.npy") == 3
    assert "2 of 20 images could not be scored" in capsys.readouterr().out
    assert "image 13 could not be scored: " in caplog.text
    columns = archive.read("run")
    assert np.flatnonzero(columns["failed"]).tolist() == [13, 17]
    assert np.isnan(columns["eigenvalues"][[13, 17]]).all()
    right = columns["failed"] == 0
    assert np.isfinite(columns["eigenvalues"][right]).all()
    np.save("right.npy", images[:10])
    assert score("overflowing", "alone", *options, data="right.npy") == 0
    np.testing.assert_allclose(
        columns["eigenvalues"][:10], archive.read("alone")["eigenvalues"], rtol=1e-5
    )
    assert score("overflowing", "run", *options, data="late.npy") == 3
    assert run("info", "run") == 0
    shown = capsys.readouterr().out
    assert "18 of 20 images have all eigenpairs converged" in shown
    assert "nan" not in shown
    for image in (13, 17):
        assert f"image {image}: the map returned NaN, infinite values" in shown


def test_many_images_that_could_not_be_scored(place, capsys, caplog):
    """The command shows some of the reasons, and names the one that shows more."""
    images = np.zeros((14, 4, 4), np.float32)
    images[2:] = 100
    np.save("late.npy", images)
    assert score("overflowing", data="late.npy") == 3
    assert caplog.text.count("could not be scored: ") == 10
    assert "and more images: pullback info run" in caplog.text
    capsys.readouterr()
    assert run("info", "run") == 0
    assert capsys.readouterr().out.count(": the map returned NaN") == 12


def test_where_nothing_is_scored_nothing_is_said_of_scores():
    doubts, nan = Doubts(), np.full((3, 2), np.nan)
    failed, none = np.ones(3, np.int8), np.zeros((3, 2), np.int8)
    doubts.add(
        {"failed": failed, "converged": none, "eigenvalues": nan, "entropy_error": nan[:, 0]}
    )
    assert doubts.lines() == ["3 of 3 images could not be scored"]


FULL = """
    import torch
    import pullback as pb

    def small():
        def encode(x):
            if len(x) > 5:
                raise {error}
            return x.flatten(1) * 2
        return encode
"""


@pytest.mark.parametrize(
    "error",
    [
        'torch.OutOfMemoryError("CUDA out of memory.")',
        'RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")',
        "MemoryError()",
    ],
)
def test_a_batch_that_does_not_fit_is_halved(place, caplog, error):
    (place / "small.py").write_text(textwrap.dedent(FULL).replace("{error}", error))
    command = ["score", "--encoder", "small.py:small", "--data", "data.npz", "--out", "run"]
    assert run(*command, "--batch-size", 16, "--shard-size", 16) == 0
    said = [line for line in caplog.messages if "out of memory" in line]
    assert said[-1] == "out of memory: going on with batches of 4 images"
    assert len(said) == 2  # and not once more for every batch or shard
    np.testing.assert_allclose(archive.read("run")["eigenvalues"], np.full((30, 5), 4), rtol=1e-6)


def test_signals_wait_while_a_file_is_written():
    reached = []

    def wait():
        with postpone_signals() as answer:
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("inside")
            answer()
            reached.append("after")

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert reached == ["inside"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

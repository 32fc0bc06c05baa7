"""The command line as its users meet it: what it does, and what it says when it does not."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pullback import archive, cli
from tests.shell import names, refused, run, score


def test_score_merge_and_info(place, capsys):
    options = ("--shard-size", 7, "--batch-size", 4, "-k", 3)
    assert score("declared", "run", *options, "--no-merge") == 0
    shown = capsys.readouterr().out
    assert "30 images are scored; next: pullback merge run" in shown
    assert "30 of 30 images have all eigenpairs converged" in shown
    assert names("run") == ["manifest.json", "shards"]
    assert len(names("run/shards")) == 5
    assert run("info", "run") == 0
    assert "5 of 5 finished, not merged yet" in capsys.readouterr().out
    assert run("merge", "run") == 0
    assert run("info", "run") == 0
    shown = capsys.readouterr().out
    assert "merged into archive.h5" in shown
    assert "30 of 30 images have all eigenpairs converged" in shown
    assert "spectral_radius" in shown

    columns = archive.read(place / "run")
    assert columns["eigenvalues"].shape == (30, 3)
    np.testing.assert_array_equal(columns["label"], np.arange(30) % 3)
    assert "directions" not in columns


def test_verify_holds_every_file_against_the_manifest(place, capsys):
    assert score("declared", "run", "--shard-size", 7, "--no-merge") == 0
    shard = place / "run" / "shards" / "part-000003.h5"
    kept = shard.read_bytes()
    shard.unlink()
    capsys.readouterr()
    assert run("verify", "run") == 0
    assert capsys.readouterr().out == "4 of 5 shards are there and whole\n"
    shard.write_bytes(kept[:-200] + bytes(200))
    assert run("verify", "run") == 1
    assert "part-000003.h5" in capsys.readouterr().err
    shard.write_bytes(kept)
    assert run("merge", "run") == 0
    capsys.readouterr()
    assert run("verify", "run") == 0
    assert capsys.readouterr().out == "5 of 5 shards are there and whole, and archive.h5\n"


def test_results_do_not_depend_on_batches_and_shards(place):
    score("declared", "one", "--shard-size", 7, "--batch-size", 4, "--directions")
    score("declared", "two", "--shard-size", 30, "--batch-size", 30, "--directions")
    one, two = archive.read(place / "one"), archive.read(place / "two")
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], rtol=1e-5, atol=1e-5)
    assert one["directions"].shape == (30, 5, 16)


def test_a_second_run_does_nothing_and_the_same_seed_gives_the_same(place):
    assert score() == 0
    before = {p: p.stat().st_mtime_ns for p in (place / "run" / "shards").iterdir()}
    assert score() == 0
    assert before == {p: p.stat().st_mtime_ns for p in (place / "run" / "shards").iterdir()}
    score("declared", "again")
    a, b = archive.read(place / "run"), archive.read(place / "again")
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


def test_an_interrupted_run_resumes(place):
    """Ctrl-C in the middle: finished shards stay, and the same command finishes the run."""
    command = [sys.executable, "-m", "pullback.cli", "score", "--encoder", "encoders.py:slow"]
    command += ["--data", "data.npz", "--out", "run", "--shard-size", "3", "--batch-size", "1"]
    np.savez("data.npz", images=np.random.default_rng(0).random((18, 4, 4), dtype=np.float32))
    # What runs in the background of a shell ignores Ctrl-C, and so do its children.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    shards = place / "run" / "shards"
    while len(list(shards.glob("part-*.h5"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, error
    assert "interrupted; the same command again resumes the run" in error
    assert "Traceback" not in error
    finished = {p: p.stat().st_mtime_ns for p in shards.glob("part-*.h5")}
    assert 2 <= len(finished) < 6
    assert run("merge", "run") == 1

    left = shards / ".part-000005.h5.elsewhere.1.0123abcd.tmp"
    left.write_bytes(b"left by a process that was killed")
    os.utime(left, (0, 0))
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in finished.items())
    assert sorted(p.name for p in shards.iterdir()) == [f"part-{i:06d}.h5" for i in range(6)]
    score("slow", "whole", "--shard-size", 30, "--batch-size", 30)
    resumed, whole = archive.read(place / "run"), archive.read(place / "whole")
    for name, array in resumed.items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-5)


def test_a_damaged_shard_is_made_again(place, caplog):
    score("declared", "run", "--shard-size", 10)
    before = archive.read("run")
    (place / "run" / "shards" / "part-000001.h5").write_bytes(b"damaged")
    assert score("declared", "run", "--shard-size", 10) == 0
    assert "part-000001.h5 is damaged" in caplog.text
    for name, array in archive.read("run").items():
        np.testing.assert_array_equal(array, before[name])


def test_a_run_that_was_killed_before_its_manifest(place):
    (place / "run").mkdir()
    (place / "run" / ".manifest.json.elsewhere.1.0123abcd.tmp").write_text("{")
    assert score() == 0
    # It may be what another machine is writing.
    left = ".manifest.json.elsewhere.1.0123abcd.tmp"
    assert names("run") == [left, "archive.h5", "manifest.json", "shards"]


def test_a_finished_run_is_read_without_writing(place, monkeypatch, capsys):
    """As it must be on a disk to read from; root is not stopped by permissions."""
    score()
    written: list[tuple] = []

    def watch(event, arguments):
        opened = event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_ACCMODE
        changed = event in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.truncate")
        if watching and (opened or changed) and "run" in str(arguments[0]):
            written.append((event, arguments))

    watching = True
    sys.addaudithook(watch)
    assert score() == 0
    assert run("info", "run") == 0
    watching = False
    assert written == []


def test_an_encoder_in_float64_is_scored_in_float64(place):
    (place / "double.py").write_text(
        "from torch import nn, float64\n"
        "def double():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6, dtype=float64))\n"
    )
    assert run("score", "--encoder", "double.py:double", "--data", "data.npz", "--out", "r") == 0
    assert archive.read("r")["eigenvalues"].dtype == np.float64
    assert archive.read_manifest("r")["score"]["dtype"] == "float64"


def test_a_folder_that_holds_another_run(place, capsys):
    score()
    capsys.readouterr()
    refused(
        capsys, score("declared", "run", "-k", 3), "holds another run", "score.k was 5 and is 3"
    )
    refused(capsys, score("declared", "run", "--seed", 1), "score.seed was 0 and is 1", "weights")
    refused(
        capsys, score("pair", "run", "--returns", "mean_logvar"), "encoder.factory was declared"
    )
    np.save("other.npy", np.zeros((30, 4, 4), np.float32))
    refused(
        capsys, score(data="other.npy"), "data.name was data.npz and is other.npy", "data.bytes"
    )
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").write_text("")
    refused(capsys, score("declared", "full"), "full is not empty and holds no run")
    assert names("full") == ["thesis.tex"]
    (place / "file").write_text("")
    refused(capsys, score("declared", "file"), "file is a file; give a folder")
    refused(capsys, run("info", "file"), "file is no run of `pullback score`")


def test_other_arguments_that_are_refused(place, capsys):
    refused(capsys, score("declared", "run", "-k", 0), "k=0 must lie between 1 and N = 16")
    refused(capsys, score("declared", "run", "-k", 17), "k=17 must lie between 1 and N = 16")
    refused(capsys, score("declared", "run", "--batch-size", 0), "batch_size=0 must be at least 1")
    refused(capsys, score("declared", "run", "--shard-size", -1), "shard_size=-1 must be at")
    refused(capsys, score("declared", "run", "--seed", 2**64), "must lie between 0 and")
    refused(
        capsys, score("declared", "run", "--device", "abacus"), "device 'abacus' cannot be used"
    )
    refused(capsys, score("pair", "run", "--returns", "logvar"), "returns='logvar' is not one of")
    refused(capsys, score(data="nowhere"), "no data at nowhere")
    refused(
        capsys, run("score", "--encoder", "encoders.py", "--data", "d", "--out", "o"), "no data"
    )
    for spec, message in (
        ("encoders.py", "does not have the form FILE_OR_MODULE:FACTORY"),
        ("missing.py:f", "no file missing.py"),
        ("missing.module:f", "there is no module 'missing' to import"),
    ):
        status = run("score", "--encoder", spec, "--data", "data.npz", "--out", "run")
        refused(capsys, status, message)
    assert not (place / "run").exists()


@pytest.mark.parametrize("arguments", [["--bogus", "3"], ["-k", "x"]])
def test_unknown_options_and_wrong_types(place, capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        score("declared", "run", *arguments)
    assert stopped.value.code == 2
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_images_of_the_wrong_shape_or_content(place, capsys):
    np.save("small.npy", np.zeros((5, 3, 3), np.float32))
    refused(capsys, score(data="small.npy"), "cannot be applied to a batch of shape (2, 3, 3)")
    bad = np.zeros((5, 4, 4), np.float32)
    bad[3] = np.nan
    np.save("nan.npy", bad)
    refused(capsys, score(out="nan", data="nan.npy"), "image 3 of nan.npy holds NaN or infinite")
    bad[0] = np.inf
    np.save("nan.npy", bad)
    refused(capsys, score(out="new", data="nan.npy"), "image 0 of nan.npy holds NaN or infinite")
    (place / "folder").mkdir()
    refused(capsys, score(data="folder"), "no images in folder")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("folder/a.png")
    (place / "folder" / "b.png").write_bytes(b"broken")
    refused(capsys, score(data="folder"), "b.png cannot be read as an image")
    assert not (place / "run").exists()


def test_a_folder_of_images_and_a_configuration_file(place):
    (place / "folder").mkdir()
    for i in range(3):
        Image.fromarray(np.full((4, 4), 50 * i, np.uint8)).save(f"folder/{i}.png")
    (place / "options.yaml").write_text(
        "encoder: encoders.py:function\ndata: folder\nout: run\nk: 2\n"
    )
    assert run("score", "--config", "options.yaml", "-k", "4") == 0
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["score"]["k"] == 4
    np.testing.assert_array_equal(archive.read("run")["file"], [b"0.png", b"1.png", b"2.png"])
    np.testing.assert_allclose(archive.read("run")["eigenvalues"], np.full((3, 4), 4.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "about"),
    [
        (["--weights", "w.pt"], "encoder"),
        (["--decoder-weights", "w.pt"], "decoder"),
        (["--crop", 2], "data"),
        (["--skip-bad"], "data"),
    ],
)
def test_options_of_a_report_that_would_do_nothing(place, capsys, option, about):
    score()
    message = f"{option[0]} is about what --{about} names; give that, too"
    refused(capsys, run("report", "run", *option), message)

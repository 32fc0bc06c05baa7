"""Errors of the system are told as what they are, never as damage, and replace nothing."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from pullback import archive
from pullback.archive.atomic import create_text
from pullback.archive.hdf5 import open_to_read, open_to_write
from pullback.archive.reading import verify
from pullback.archive.shards import list_shards
from tests.archive.test_run import make_run
from tests.shell import score


def first_shard(folder):
    make_run(folder)
    return next(list_shards(folder, archive.read_manifest(folder)))


def test_a_shard_that_somebody_has_a_lock_on_is_read(tmp_path):
    shard = first_shard(tmp_path)
    with h5py.File(shard.path, "r+"):  # locks it, and marks it as open
        verify(shard.path, shard.layout)
    with shard.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        verify(shard.path, shard.layout)
    assert archive.merge(tmp_path).exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOENT, errno.EIO])
def test_a_shard_that_cannot_be_opened_is_not_made_again(place, monkeypatch, capsys, number):
    score("declared", "run", "--shard-size", 10)
    paths = sorted((place / "run" / "shards").iterdir())
    before = [path.stat().st_ino for path in paths]
    real = os.open

    def failing(path, *rest, **more):
        if str(path).endswith("part-000001.h5"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", failing)
    assert score("declared", "run", "--shard-size", 10) == 1
    error = capsys.readouterr().err
    assert os.strerror(number) in error
    assert "damaged" not in error
    assert [path.stat().st_ino for path in paths] == before


@pytest.mark.parametrize("after", [0, 3, 10])
def test_a_disk_that_fails_while_reading(tmp_path, monkeypatch, after):
    shard = first_shard(tmp_path)
    real, left = os.preadv, [after]

    def failing(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match=r"Input/output error: '.*part-000000\.h5'"):
        verify(shard.path, shard.layout)


FULL = """
    import resource, signal, sys
    from pathlib import Path
    from pullback import archive
    from pullback.archive.atomic import create_text, write_text

    run, limit = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        {write}
    except OSError as error:
        print(error.errno, error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 5000, 10_000])
def test_a_disk_without_space_is_told_and_does_not_crash(tmp_path, limit):
    """By a limit to the size of files, which fails as a full disk does."""
    make_run(tmp_path)
    fill_up("archive.merge(run)", tmp_path, limit)


@pytest.mark.parametrize("write", ["write_text", "create_text"])
def test_a_text_that_finds_no_space_is_named(tmp_path, write):
    make_run(tmp_path)
    fill_up(f"{write}(run / 'report.html', 'long' * 1000)", tmp_path, 1000)


def fill_up(write, run, limit):
    """It is told, with the name of a file, and leaves nothing."""
    command = [sys.executable, "-c", textwrap.dedent(FULL).replace("{write}", write), run, limit]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{errno.EFBIG} [Errno {errno.EFBIG}] File too large: '{run}")
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "shards"]


def write_some(path):
    with open_to_write(path) as file:
        for name in "abcdefghijklmnopqrst":
            file.create_dataset(name, data=np.random.default_rng(0).random(300))


def test_a_full_disk(tmp_path):
    """Wherever in the file the space ends."""
    for space in range(0, 40_000, 1500):
        path, left = tmp_path / f"{space}.h5", [space]

        def write(descriptor, buffer, place, real=os.pwrite, left=left):
            left[0] -= len(buffer)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, buffer, place)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", write)
            with pytest.raises(OSError, match="No space left"):
                write_some(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    for name in ("pipe.h5", "folder.h5"):
        with pytest.raises(ValueError, match=rf"{name} is no regular file"):
            open_to_read(tmp_path / name).__enter__()


def refuse(monkeypatch, function, number, refused=lambda *_: True):
    """``function`` of the system fails as it does of itself: without a name."""
    real = getattr(os, function)

    def failing(*arguments):
        if refused(*arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(os, function, failing)


def is_folder(descriptor):
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_disk_without_hard_links_holds_runs(tmp_path, monkeypatch, number):
    refuse(monkeypatch, "link", number)
    assert create_text(tmp_path / "manifest.json", "first")
    assert not create_text(tmp_path / "manifest.json", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == "first"


def test_a_disk_that_cannot_flush_a_folder_holds_runs(place, monkeypatch):
    refuse(monkeypatch, "fsync", errno.EINVAL, is_folder)
    assert score("declared", "run") == 0
    assert len(archive.read(place / "run")["eigenvalues"]) == 30


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("refused", [is_folder, lambda descriptor: not is_folder(descriptor)])
def test_what_cannot_be_flushed_is_named(place, monkeypatch, capsys, number, refused):
    refuse(monkeypatch, "fsync", number, refused)
    assert score("declared", "run") == 1
    assert f"{os.strerror(number)}: 'run" in capsys.readouterr().err


def test_a_manifest_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make_run(tmp_path)

    def read_bytes(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(OSError, match=r"Input/output error: '.*manifest\.json'"):
        archive.read_manifest(tmp_path)

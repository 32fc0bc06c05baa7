"""The manifest of a run is made once, by one process, and never written again."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from pullback import archive
from pullback.archive.atomic import create_text, delete_leftovers, temporary_name
from pullback.archive.manifest import start_or_resume
from tests.archive.test_run import make_manifest


def test_of_several_that_start_a_run_at_once_one_wins(tmp_path):
    """Each with settings of its own: all others are refused, whatever the manifest then says."""
    workers = 8
    for trial in range(10):
        run, barrier = tmp_path / str(trial), threading.Barrier(workers)

        def start(k, run=run, barrier=barrier):
            barrier.wait()
            try:
                start_or_resume(run, make_manifest(k=k))
            except FileExistsError:
                return None
            return k

        with ThreadPoolExecutor(workers) as pool:
            accepted = [k for k in pool.map(start, range(1, workers + 1)) if k is not None]
        assert accepted == [archive.read_manifest(run)["score"]["k"]]
        assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "shards"]


def test_a_manifest_is_not_written_again(tmp_path):
    start_or_resume(tmp_path, make_manifest())
    before = (tmp_path / "manifest.json").stat()
    start_or_resume(tmp_path, make_manifest())
    after = (tmp_path / "manifest.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_text_is_created_once(tmp_path):
    assert create_text(tmp_path / "a", "one")
    assert not create_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_temporary_names_are_ones_own(tmp_path):
    names = {temporary_name(tmp_path / "part.h5").name for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.startswith(f".part.h5.{socket.gethostname().replace('.', '-')[:64]}.")
        assert f".{os.getpid()}." in name


def test_only_what_is_older_than_a_week_is_deleted(tmp_path):
    day = 24 * 3600
    for age in (0, 6, 8):
        left = tmp_path / f".part.h5.host.1.{age}.tmp"
        left.write_text("")
        os.utime(left, (time.time() - age * day,) * 2)
    (tmp_path / "part.h5").write_text("")
    os.utime(tmp_path / "part.h5", (0, 0))
    delete_leftovers(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".part.h5.host.1.0.tmp", ".part.h5.host.1.6.tmp", "part.h5"]

"""kill -9 while two processes work on a run, at moments drawn from every phase of theirs.

``python -m tests.jobs.test_kills 200`` makes 200 such kills, and says how many in which phase.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pullback import archive, cli
from pullback.archive import run as archive_run
from pullback.archive import writing
from pullback.jobs import scoring, shards

ROOT = Path(__file__).parents[2]
KILLS, SEED, SHARDS = 12, 0, 8
SCORE = ["score", "--encoder", "encoder.py:encoder", "--data", "images.npy", "--shard-size", "3"]
SCORE += ["--batch-size", "1", "--quiet", "--out"]
# Functions in which a process is in a phase; the innermost counts, but for merging.
PHASES = {
    "start": [(scoring, "prepare"), (scoring, "start_or_resume")],
    "scoring": [(shards, "score_shard")],
    "writing": [(shards, "write")],
    "verifying": [(writing, "verify")],
    "moving": [(writing, "move_into_place")],
    "merging": [(cli, "merge")],
}
# What Python reports before it is done, and what it does not.
EVENTS = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.scandir")
CALLS = [(os, "pwrite"), (os, "preadv"), (os, "fsync"), (shards, "score"), (archive_run, "gather")]
ENCODER = """
    import torch
    from torch import nn
    import pullback as pb

    def encoder():
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8))
        return pb.as_map(lambda x: net(x).chunk(2, 1), "mean_logvar")
"""
IMPORTING = """
    import os, signal, sys
    left = int(sys.argv[1])
    def hook(event, _):
        global left
        left -= event == "import"
        if not left and event == "import":
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    from pullback.cli import main
    sys.exit(main(sys.argv[2:]))
"""


class Steps:
    """Counts the steps of a process in each phase, and kills it at one of them."""

    def __init__(self, phase: str = "", last: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self._end = phase, last
        self._inside: list[str] = []

    def watch(self) -> None:
        """From now on, in this process."""
        for phase, functions in PHASES.items():
            for module, name in functions:
                setattr(module, name, self._within(phase, getattr(module, name)))
        for module, name in CALLS:
            setattr(module, name, self._counted(getattr(module, name)))
        sys.addaudithook(lambda event, _: self._step() if event in EVENTS else None)

    def _step(self) -> None:
        if self._inside:
            phase = "merging" if "merging" in self._inside else self._inside[-1]
            self.counts[phase] += 1
            if (phase, self.counts[phase]) == self._end:
                os.kill(os.getpid(), signal.SIGKILL)

    def _counted(self, function: Callable) -> Callable:
        def counted(*arguments, **options):
            self._step()
            return function(*arguments, **options)

        return counted

    def _within(self, phase: str, function: Callable) -> Callable:
        def inside(*arguments, **options):
            self._inside.append(phase)
            try:
                return function(*arguments, **options)
            finally:
                self._step()  # after what it did last
                self._inside.pop()

        return inside


def fork(command: list[str], steps: Steps, counts: Path | None = None) -> int:
    """The number of a process that gives a command, and leaves its counts in a file."""

    def give() -> int:
        steps.watch()
        status = cli.main(command)
        if counts is not None:
            counts.write_text("\n".join(steps.counts.elements()))
        return status

    return start(give)


def import_again(command: list[str], last: int) -> int:
    """The same where nothing is imported yet, and so many imports are the end."""

    def give() -> int:
        words = [sys.executable, "-c", textwrap.dedent(IMPORTING), str(last), *command]
        os.execve(sys.executable, words, os.environ | {"PYTHONPATH": str(ROOT)})

    return start(give)


def start(function: Callable[[], int]) -> int:
    """The number of a process in which a function is called; what it says goes to a file."""
    number = os.fork()
    if number:
        return number
    try:
        said = Path("said").open("a", buffering=1)  # noqa: SIM115
        sys.stdout = sys.stderr = said
        for descriptor in (1, 2):
            os.dup2(said.fileno(), descriptor)
        os._exit(function())
    finally:
        traceback.print_exc()
        os._exit(70)


def wait(number: int) -> int:
    """Its exit status; −9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


class Sweep:
    """Runs that are killed and resumed in the current folder, beside one that is not."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self._published: dict[Path, bytes] = {}
        begin, counts = time.monotonic(), Path("counts")
        assert wait(fork([*SCORE, "whole", "--no-merge"], Steps(), counts)) == 0
        self._seconds = time.monotonic() - begin
        self._most = Counter(counts.read_text().split())
        assert wait(fork(["merge", "whole"], Steps(), counts)) == 0
        self._most += Counter(counts.read_text().split())
        self._whole = archive.read("whole")
        assert self._most.keys() == PHASES.keys()

    def kill(self, kills: int) -> None:
        """Until so many processes were killed."""
        number = 0
        while self.killed.total() < kills:
            number += 1
            run = Path(f"run{number}")
            self._published = {}
            while self.killed.total() < kills and len(self._published) < SHARDS:
                commands = [[*SCORE, str(run), "--shards", f"{share}/2"] for share in (1, 2)]
                self._give(run, commands, [*PHASES.keys() - {"merging"}, "import", "any time"])
            for _ in range(2):
                if self.killed.total() < kills:
                    self._give(run, [["merge", str(run)]], ["merging"])
            self._finish(run)

    def _finish(self, run: Path) -> None:
        """Resumed by processes that are left alone, its columns are those of the whole run."""
        for command in ([*SCORE, str(run), "--no-merge"], ["merge", str(run)]):
            assert wait(fork(command, Steps())) == 0
        self._check(run)
        assert archive.verify(run) == (SHARDS, SHARDS, True)
        found = archive.read(run)
        assert found.keys() == self._whole.keys()
        for name, column in self._whole.items():
            assert found[name].dtype == column.dtype
            assert found[name].tobytes() == column.tobytes()
        shutil.rmtree(run)

    def _give(self, run: Path, commands: list[list[str]], phases: list[str]) -> None:
        """Start processes, and wait until each has died in a phase, or has come to its end."""
        drawn = [self._random.choice(sorted(phases)) for _ in commands]
        numbers = list(map(self._start, commands, drawn))
        for number, phase in zip(numbers, drawn, strict=True):
            if phase == "any time":
                time.sleep(self._random.uniform(0, self._seconds))
                os.kill(number, signal.SIGKILL)
        for number, phase in zip(numbers, drawn, strict=True):
            status = wait(number)
            said = Path("said").read_text()
            assert status in (0, -signal.SIGKILL), f"status {status}, phase {phase}: {said}"
            self.killed[phase] += status != 0
        self._check(run)

    def _start(self, command: list[str], phase: str) -> int:
        if phase == "import":
            return import_again(command, self._random.randint(1, 900))
        return fork(command, Steps(phase, self._random.randint(1, max(1, self._most[phase]))))

    def _check(self, run: Path) -> None:
        """What was published is there as it was, and whole; h5dump reads what is new."""
        files = {path: path.read_bytes() for path in run.glob("shards/part-*.h5")}
        for path, content in self._published.items():
            assert files[path] == content
        new = [path for path in files if path not in self._published]
        self._published = files
        if (run / "manifest.json").exists():
            assert archive.verify(run).finished == len(files)
        new += run.glob("archive.h5")
        if shutil.which("h5dump") is not None:
            for path in new:
                done = subprocess.run(["h5dump", path], capture_output=True, check=False)
                assert (done.returncode, done.stderr) == (0, b"")


def write_inputs() -> None:
    Path("encoder.py").write_text(textwrap.dedent(ENCODER))
    np.save("images.npy", np.random.default_rng(0).random((24, 4, 4), dtype=np.float32))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_that_is_killed_again_and_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_inputs()
    sweep = Sweep(SEED)
    sweep.kill(KILLS)
    assert sweep.killed.total() in (KILLS, KILLS + 1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_inputs()
        sweep = Sweep(SEED)
        sweep.kill(int(sys.argv[1]))
        sys.stdout.write(f"{sweep.killed.total()} killed: {dict(sweep.killed)}\n")

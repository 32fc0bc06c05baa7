"""What a command says where its terminal fails it, or an option is wrong."""

import errno
import io
import sys
from pathlib import Path

import pytest

from pullback import cli
from tests.shell import run, score

FULL = Path("/dev/full")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("info", "info: RUN must be given; see pullback info --help"),
        ("compare run", "compare: B must be given; see pullback compare --help"),
        (
            "compare run b --figure x.png",
            "compare: unrecognized arguments: --figure x.png; see pullback compare --help",
        ),
        ("score -k a.b", "score: -k: expected int, got a.b; see pullback score --help"),
        ("score --data x", "score: --encoder, --out must be given; see pullback score --help"),
        (
            "score --encoder a:b --data x --out y -k abc",
            "score: -k: expected int, got abc; see pullback score --help",
        ),
        ("report run --eps x", "report: --eps: expected float, got x; see pullback report --help"),
    ],
)
def test_wrong_options_are_told_in_a_line(capsys, command, said):
    with pytest.raises(SystemExit) as stopped:
        run(*command.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"pullback {said}\n"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["info", "run"], ["merge", "run"], ["--help"]])
def test_output_that_cannot_be_written(place, capsys, monkeypatch, command):
    score()
    capsys.readouterr()
    with FULL.open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert run(*command) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith(f"[Errno {errno.ENOSPC}] No space left on device: 'standard output'")


def test_standard_streams_that_are_closed(place, monkeypatch):
    score()
    with monkeypatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        assert run("info", "run") == 0
        assert score("declared", "other") == 0
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()


def test_letters_that_a_terminal_has_no_code_for(place, monkeypatch):
    """They are printed as escapes."""
    score(out="rün")
    printed = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
        assert run("merge", "rün") == 0
        assert printed.getvalue() == b"wrote r\\xfcn/archive.h5\n"
        with pytest.raises(SystemExit, match="0"):
            run("score", "--help")


def test_only_score_says_that_it_resumes(place, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    score()
    monkeypatch.setattr(cli, "summary", stop)
    capsys.readouterr()
    assert run("info", "run") == 130
    assert capsys.readouterr().err == "interrupted\n"

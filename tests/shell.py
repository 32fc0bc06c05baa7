"""Commands as a user of the shell gives them, with the encoders of the fixture `place`."""

from pathlib import Path

from pullback import cli


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def run(*arguments):
    """The exit status of a command."""
    return cli.main([str(argument) for argument in arguments])


def score(factory="declared", out="run", *more, data="data.npz"):
    return run("score", "--encoder", f"encoders.py:{factory}", "--data", data, "--out", out, *more)


def refused(capsys, status, *messages):
    error = capsys.readouterr().err
    assert status == 1
    for message in messages:
        assert message in error
    assert "Traceback" not in error

"""A command and its terminal: standard streams, signals, and text that is only text."""

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from .archive.summary import plain_text


def open_streams() -> None:
    """Where a standard stream is closed, open one that leads nowhere.

    The first file that is opened would be it, and hold what is printed. Letters that standard
    output has no code for are printed as escapes, as Python does on standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Let standard output lead nowhere, with what still waits to be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print what was found, at once.

    Raises:
        OSError: it cannot be written, as where the disk is full; a BrokenPipeError where nobody
            reads any more.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        silence()
        raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def stopping_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a run as Ctrl-C does, unless they are ignored, as by nohup.

    Python drops an exception that a signal raises within the clean-up of an object, and prints it.
    So an alarm repeats it until it is heard, and nothing of it is printed.
    """

    def stop(number: int, _: FrameType | None) -> None:
        if number != signal.SIGALRM:
            stopped.append(number)
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        raise KeyboardInterrupt(stopped[0])

    def tell_dropped(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            usual_telling(dropped)

    stopped: list[int] = []
    usual_telling, sys.unraisablehook = sys.unraisablehook, tell_dropped
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: handler for number, handler in before.items() if handler in usual}
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:  # Ray raises one of its own instead
        raise KeyboardInterrupt(*stopped[:1]) from None
    finally:
        sys.unraisablehook = usual_telling
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in taken.items():
            signal.signal(number, handler)


class PlainFormatter(logging.Formatter):
    """Messages as lines that cannot change a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        return "\n".join(map(plain_text, super().format(record).splitlines()))

"""Signals wait while HDF5 writes: an exception raised in the midst of it crashes the process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# The last three are not everywhere. PyTorch raises for the last, when a process that reads ends.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD")


@contextmanager
def postpone_signals() -> Iterator[Callable[[], None]]:
    """Keep signals from interrupting what is inside.

    Yields:
        a function that answers those which have come: their handlers are called, and may raise.
        At the end they are answered as well.
    """
    came: list[tuple[int, FrameType | None]] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # no other one is interrupted
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        found = {number: signal.getsignal(number) for number in numbers}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def answer() -> None:
        while came:
            number, frame = came.pop(0)
            handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield answer
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    answer()

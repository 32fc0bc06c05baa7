"""How far a run is: a bar in a terminal, a line a minute in a file."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

log = logging.getLogger("pullback")

_SECONDS = 60.0


@contextmanager
def show_progress(total: int, done: int, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """Show how many of ``total`` images are scored, ``done`` of them before.

    Yields:
        a function that is told how many more are done.
    """
    if not shown:
        yield lambda _: None
    elif sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="image", desc="scoring") as bar:
            yield bar.update
    else:
        yield _Lines(total, done).update


class _Lines:
    def __init__(self, total: int, done: int) -> None:
        self._total, self._first, self._done = total, done, done
        self._start = self._said = time.monotonic()

    def update(self, more: int) -> None:
        self._done += more
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            speed = (self._done - self._first) / (now - self._start)
            log.info("%d of %d images, %.3g per second", self._done, self._total, speed)
            self._said = now

"""Ctrl-C while the command is still importing PyTorch: a line, and no traceback.

It is the first thing that the package imports. Where anything but the package's own command imports
it, it does nothing.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def _stop(number: int, _: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Python calls a module that it has yet to find, as in ``python -m pullback``, ``-m``."""
    name = sys.argv[0] if sys.argv else ""
    return name == "-m" or Path(name).stem == "pullback"


def finish() -> None:
    """From here on, Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _stop)

"""``python -m studies NAME``: the studies by name, ``--help`` for their options."""

import logging
import sys
from collections.abc import Callable

from jsonargparse import auto_cli

from .benchmark import benchmark
from .digits import digits
from .optimality import optimality
from .sweep import sweep
from .train import train

STUDIES: list[Callable[..., None]] = [benchmark, digits, optimality, sweep, train]


def main() -> int:
    """Run a study; returns the exit status (0 done, 1 refused, 130 interrupted)."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        auto_cli(STUDIES, prog="python -m studies", as_positional=False)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ArithmeticError) as error:
        print(f"python -m studies: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())

"""``python -m studies NAME``."""

import sys

from .cli import main

sys.exit(main())

"""A run to look at: one page that opens offline, and its pictures.

Needs Jinja2 and Matplotlib, which ``pip install 'pullback[report]'`` brings.
"""

try:
    import jinja2 as _jinja2  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"reports and pictures need {error.name}, which is missing: pip install 'pullback[report]'"
    ) from error

from .comparison import draw_comparison
from .page import write_report

__all__ = ["draw_comparison", "write_report"]

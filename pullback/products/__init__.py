"""J v and Jᵀu of a function at a point; the primal work is done once."""

from .blocks import MAX_BLOCK
from .cache import Linearization, RecentLinearizations, find_once
from .calls import library_call
from .double_backward import AutogradLinearization
from .linearize import linearize

__all__ = [
    "MAX_BLOCK",
    "AutogradLinearization",
    "Linearization",
    "RecentLinearizations",
    "find_once",
    "library_call",
    "linearize",
]

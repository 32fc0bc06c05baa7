"""J v and Jᵀu of a function at a point; the primal work is done once."""

from .blocks import MAX_BLOCK
from .cache import Linearization, RecentLinearizations, steady_tensors
from .double_backward import AutogradLinearization
from .linearize import linearize

__all__ = [
    "MAX_BLOCK",
    "AutogradLinearization",
    "Linearization",
    "RecentLinearizations",
    "linearize",
    "steady_tensors",
]

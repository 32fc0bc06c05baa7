"""J v and Jᵀu of a function at a point; the primal work is done once."""

from .blocks import identity, identity_blocks, with_batch_as_columns
from .cache import (
    Linearization,
    RecentLinearizations,
    address,
    find_once,
    fresh_call,
    steady_tensors,
)
from .calls import library_call
from .checksums import checksums
from .devices import MAX_BLOCK, is_launch_bound, max_block, small_batch
from .double_backward import AutogradLinearization
from .linearize import linearize
from .precision import full_precision
from .transforms import in_transform, refuse_transforms

__all__ = [
    "MAX_BLOCK",
    "AutogradLinearization",
    "Linearization",
    "RecentLinearizations",
    "address",
    "checksums",
    "find_once",
    "fresh_call",
    "full_precision",
    "identity",
    "identity_blocks",
    "in_transform",
    "is_launch_bound",
    "library_call",
    "linearize",
    "max_block",
    "refuse_transforms",
    "small_batch",
    "steady_tensors",
    "with_batch_as_columns",
]

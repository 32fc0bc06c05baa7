"""What holds during one call of the library."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from .cache import steady_tensors
from .precision import full_precision

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def library_call(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes of a function one call of the library, which is not differentiable.

    It computes in full precision, with the user's tensors as they are when it begins.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with steady_tensors(), full_precision(), torch.no_grad():
            return function(*args, **kwargs)

    return call

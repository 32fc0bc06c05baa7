"""What holds during one call of the library."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .cache import steady_tensors
from .precision import full_precision

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def library_call(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes of a function one call of the library, not differentiable unless it is asked to be.

    It computes in full precision, with the user's tensors as they are when it begins. Without
    ``differentiable=True``, an input that requires grad, or an operator at one, gives one warning:
    it asks for what there is not.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        enabled = torch.is_grad_enabled()
        derive = enabled and kwargs.get("differentiable") is True
        if enabled and not derive and any(map(_requires_grad, (*args, *kwargs.values()))):
            warnings.warn(
                f"{function.__qualname__.removesuffix('.__call__')} is not differentiable, and no "
                "gradient reaches the input that requires grad; detach it, or differentiate "
                "products of the metric instead",
                stacklevel=2,
            )
        with steady_tensors(), full_precision(), torch.set_grad_enabled(derive):
            return function(*args, **kwargs)

    return call


def _requires_grad(argument: object) -> bool:
    """Whether it is a tensor that requires grad, or an operator at one.

    An operator is at its first argument: neither the parameters of a map, which mostly do, nor a
    weight, which they move, are that.
    """
    if isinstance(argument, LinearOperator):
        return any(map(_requires_grad, argument._args[:1]))
    return isinstance(argument, Tensor) and argument.requires_grad

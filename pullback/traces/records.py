"""What every trace estimator returns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import narrow


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error and, where quadrature rules give one, an interval.

    Attributes:
        value: ``(*batch,)``.
        std_error: ``(*batch,)``; rounding is not part of it: what is exact up to rounding has
            error 0. With few probes it is widened as Student's t is against the normal
            distribution, so that two standard errors hold the truth in 95 % of the cases.
        lower, upper: ``(*batch,)``, rigorous bounds on what quadrature approximates, widened by an
            allowance for rounding; None where no rule gives one.
    """

    value: Tensor
    std_error: Tensor
    lower: Tensor | None = None
    upper: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Estimate":
        """The estimate with each of its tensors changed alike."""
        tensors = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Estimate(**{name: change(tensor) for name, tensor in tensors.items()})

    def to(self, dtype: torch.dtype) -> "Estimate":
        """The estimate in another dtype; bounds are rounded outwards.

        Raises:
            ValueError: a value has no place in that dtype.
        """
        return Estimate(
            narrow(self.value, dtype, "the estimate"),
            self.std_error.to(dtype),
            _towards(self.lower, -torch.inf, dtype),
            _towards(self.upper, torch.inf, dtype),
        )


def _towards(bound: Tensor | None, end: float, dtype: torch.dtype) -> Tensor | None:
    if bound is None or bound.dtype == dtype:
        return bound
    rounded = bound.to(dtype)
    return torch.nextafter(rounded, torch.full_like(rounded, end))

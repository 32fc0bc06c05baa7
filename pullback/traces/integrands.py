"""Functions of a matrix, with what makes quadrature bounds possible: the signs of derivatives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Integrand:
    """A function f of eigenvalues, and the signs of its derivatives above ``lowest``.

    The error of a Gauss rule has the sign of a derivative of even order, that of a Gauss–Radau rule
    of one of odd order: if those signs are known, the rules are bounds.

    Attributes:
        fn: elementwise on float64 tensors.
        even_sign: +1 or −1, the sign of all derivatives of order 2, 4, 6, …; None: not known.
        odd_sign: that of all derivatives of order 3, 5, 7, …; None: not known.
        lowest: f is taken on [lowest, ∞). Eigenvalues below it by rounding count as ``lowest``;
            truly lower ones are refused.
    """

    fn: Callable[[Tensor], Tensor]
    even_sign: int | None = None
    odd_sign: int | None = None
    lowest: float = -torch.inf

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"f must be an Integrand or a function of a tensor, got {self.fn!r}")
        for name, sign in (("even_sign", self.even_sign), ("odd_sign", self.odd_sign)):
            if sign not in (None, 1, -1):
                raise ValueError(f"{name} must be 1, -1 or None, got {sign!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), with x raised to ``lowest``; a TypeError if f is not elementwise."""
        values = self.fn(x.clamp(min=self.lowest))
        if not isinstance(values, Tensor) or values.shape != x.shape:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(
                f"f must be elementwise: of a tensor of shape {tuple(x.shape)} it made {got}"
            )
        return values

    def variation(self, x: Tensor, distance: Tensor) -> Tensor:
        """How far f changes within a distance of x; infinite where it cannot be told."""
        here = self(x)
        changes = torch.maximum(
            (self(x + distance) - here).abs(), (self(x - distance) - here).abs()
        )
        return changes.nan_to_num(nan=torch.inf, posinf=torch.inf)


def as_integrand(f: "Integrand | Callable[[Tensor], Tensor]") -> Integrand:
    """An integrand as it is; of a plain function no signs are known."""
    return f if isinstance(f, Integrand) else Integrand(f)


XLOGX = Integrand(lambda x: torch.xlogy(x, x), even_sign=1, odd_sign=-1, lowest=0.0)
SQRT = Integrand(torch.sqrt, even_sign=-1, odd_sign=1, lowest=0.0)
LOG = Integrand(torch.log, even_sign=-1, odd_sign=1, lowest=0.0)
INVERSE = Integrand(torch.reciprocal, even_sign=1, odd_sign=-1, lowest=0.0)
EXP = Integrand(torch.exp, even_sign=1, odd_sign=1)

"""Operators of any size brought near 1, so that no norm of a solver over- or underflows.

A power of two changes no digit: what a solver finds is what it would have found without, as far as
the range of the dtype allows.
"""

import math
from typing import Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import NotFiniteError
from ..base_operator import apply_operator
from ..operators import JacobianOperator, PullbackMetric

# Binary orders of magnitude from 1 up to which an operator stays as it is.
NEAR = 16


def bring_near_one(operator: LinearOperator) -> LinearOperator:
    """The operator ``(B, N, N)`` times a power of two for each sample; J and M of a metric each."""
    if not isinstance(operator, PullbackMetric):
        return ScaledOperator(operator)
    weight = None if operator.weight is None else ScaledOperator(operator.weight)
    return PullbackMetric(ScaledOperator(operator.jacobian), weight)


def exponents(operator: LinearOperator) -> Tensor:
    """Of the powers of two, ``(B,)`` float64 on the host, in what :func:`bring_near_one` made."""
    if not isinstance(operator, PullbackMetric):
        return operator.scale.exponents[operator.samples]
    exponent = 2 * exponents(operator.jacobian)
    return exponent if operator.weight is None else exponent + exponents(operator.weight)


def take_back(values: Tensor, exponent: Tensor) -> Tensor:
    """Values ``(B, *rest)`` of scaled operators divided by two to the exponents ``(B,)``."""
    if not exponent.any():
        return values
    exponent = exponent.to(values.device)
    # In two steps, of which neither leaves the range before the result does.
    half, result = (exponent / 2).round(), values.double()
    for part in (half, exponent - half):
        result = result * torch.exp2(-part).reshape(-1, *(1,) * (values.ndim - 1))
    return result.to(values.dtype)


def require_range(largest: Tensor, exponent: Tensor, operator: LinearOperator, name: str) -> None:
    """Refuse samples whose largest value has no place in the operator's dtype.

    Args:
        largest: ``(B,)``, of the scaled operator, not negative; 0 is never refused.
        exponent: ``(B,)``, of the powers of two that are in it.
        operator: the scaled operator, ``(B, N, N)``.
        name: what the values are called.

    Raises:
        NotFiniteError: a value over- or underflows.
    """
    dtype = operator.dtype
    limits = torch.finfo(dtype)
    size = largest.cpu().double().log2() - exponent  # −∞ for 0
    over = size >= math.log2(limits.max)
    outside = over | (size.isfinite() & (size < math.log2(limits.tiny)))
    if not outside.any():
        return
    first = int(outside.int().argmax())
    J = operator.jacobian if isinstance(operator, PullbackMetric) else operator
    beyond, way = ("exceed", "down") if over[first] else ("fall below", "up")
    order = size[first].item() * math.log10(2)
    raise NotFiniteError(
        f"{name} of sample {int(J.samples[first])}, about 1e{order:+.0f}, {beyond} the range of "
        f"{dtype}; use float64 inputs, or scale the map's outputs {way}"
    )


class Scale:
    """The power of two for each sample of an operator, which its first product fixes.

    A sample whose products have all been 0 has none yet: any would have done.

    Attributes:
        exponents: ``(B,)`` float64, on the host.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.dtype, self.device = operator.dtype, operator.device
        self.exponents = torch.zeros(operator.shape[0], dtype=torch.float64, device="cpu")
        self.known = torch.zeros_like(self.exponents, dtype=torch.bool)
        self.all_known, self.at_work = False, False

    def apply(self, image: Tensor, samples: Tensor, columns: Tensor | None) -> Tensor:
        """The product ``(B, M, C)`` of some samples with columns, times their powers of two."""
        if not self.all_known:
            self._learn(image, samples, columns)
        if not self.at_work:
            return image
        factors = torch.exp2(self.exponents[samples]).to(image)
        return image * factors[:, None, None]

    def _learn(self, image: Tensor, samples: Tensor, columns: Tensor | None) -> None:
        size = image.abs().amax((-2, -1)).double()
        if columns is not None:
            size = size / columns.abs().amax((-2, -1))
        order = size.cpu().log2().round()
        most = -math.log2(torch.finfo(self.dtype).tiny)
        exponent = torch.where(order.abs() > NEAR, -order, 0.0).clamp(-most, most)
        new = order.isfinite() & ~self.known[samples]
        self.exponents[samples] = torch.where(new, exponent, self.exponents[samples])
        self.known[samples] |= new
        self.all_known, self.at_work = bool(self.known.all()), bool(self.exponents.any())


class ScaledOperator(LinearOperator):
    """An operator ``(B, M, N)`` times a power of two for each sample.

    Args:
        base: the operator.
        samples: ``(B,)`` on the host, where in the scale its samples are; all of it by default.
        scale: shared with what is derived from this operator.
    """

    def __init__(
        self, base: LinearOperator, samples: Tensor | None = None, scale: Scale | None = None
    ) -> None:
        scale = Scale(base) if scale is None else scale
        if samples is None:
            samples = torch.arange(base.shape[0], device="cpu")
        super().__init__(base, samples, scale=scale)
        self.base, self.samples, self.scale = base, samples, scale

    @property
    def dtype(self) -> torch.dtype:
        """That of the operator."""
        return self.scale.dtype

    @property
    def device(self) -> torch.device:
        """That of the operator."""
        return self.scale.device

    def _size(self) -> torch.Size:
        return self.base.shape

    def _transpose_nonbatch(self) -> "ScaledOperator":
        return ScaledOperator(self.base.mT, self.samples, self.scale)

    def __getitem__(self, index: Any) -> "ScaledOperator":
        """Some samples, by a slice or by indices."""
        parts = index if isinstance(index, tuple) else (index,)
        there = tuple(part.cpu() if isinstance(part, Tensor) else part for part in parts)
        return ScaledOperator(self.base[index], self.samples[there], self.scale)

    def linearize(self) -> None:
        """See :meth:`JacobianOperator.linearize`; of any other operator, nothing."""
        if isinstance(self.base, JacobianOperator):
            self.base.linearize()

    def matmul(self, other: Tensor) -> Tensor:
        """The product with columns ``(B, N, C)``."""
        return self._matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self.scale.apply(apply_operator(self.base, rhs), self.samples, rhs)

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        own = isinstance(self.base, JacobianOperator)
        image = self.base._t_matmul(rhs) if own else apply_operator(self.base.mT, rhs)
        return self.scale.apply(image, self.samples, rhs)

    def to_dense(self) -> Tensor:
        """The matrix itself, ``(B, M, N)``."""
        # A zero operator may have lost its dtype.
        dense = self.base.to_dense().to(dtype=self.dtype, device=self.device)
        return self.scale.apply(dense, self.samples, None)

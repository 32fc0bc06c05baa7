"""The Fisher information of a Gaussian, as a weight on changes of what a map returns of it."""

import torch
from linear_operator import LinearOperator
from linear_operator.operators import DiagLinearOperator
from torch import Tensor


def fisher_information(mean: Tensor, std: Tensor, batch: torch.Size) -> LinearOperator:
    """The information ``(*batch, M, M)`` of N(μ, σ²) on [μ; σ], or of N(μ, LLᵀ) on [μ; vec L].

    Args:
        mean: ``(B, *event)``.
        std: σ, of the same shape, or L, with one more dimension.
        batch: B = batch.numel().

    Raises:
        ValueError: a covariance has no inverse, or none in its dtype; the sample is named.
    """
    if std.ndim == mean.ndim:
        precision = std.flatten(1).square().reciprocal()
        _require_invertible(precision.detach().amax(-1), (std.detach() <= 0).flatten(1).any(-1))
        diagonal = torch.cat([precision, 2 * precision], dim=-1)
        return DiagLinearOperator(diagonal.reshape(*batch, diagonal.shape[-1]))
    factor = std.reshape(*batch, mean.shape[1:-1].numel(), *std.shape[-2:])
    information = CorrelatedInformation(factor)
    pivots = information.root().detach().diagonal(dim1=-2, dim2=-1).abs().reshape(len(mean), -1)
    smallest, rounding = pivots.amin(-1), pivots.amax(-1) * torch.finfo(std.dtype).eps
    deficient = std.shape[-1] < std.shape[-2]
    _require_invertible(smallest.square().reciprocal(), (smallest <= rounding) | deficient)
    return information


def _require_invertible(precision: Tensor, singular: Tensor) -> None:
    """Refuse samples ``(B,)`` that are singular, or whose largest precision overflows."""
    bad = (singular | ~precision.isfinite()).nonzero().flatten()
    if len(bad):
        shown = ", ".join(map(str, bad[:10].tolist())) + (", …" if len(bad) > 10 else "")
        raise ValueError(
            "the Fisher metric divides by the covariance, which is singular, or too small to be "
            f"inverted in {precision.dtype}, in sample {shown}; add a floor to the standard "
            "deviation, or take pb.expected_metric"
        )


class CorrelatedInformation(LinearOperator):
    """The Fisher information of Gaussians N(μ, Σ), Σ = LLᵀ, on [μ; vec L]; semi-definite.

    It weighs changes dμ and dL with dμᵀΣ⁻¹dμ + ½ tr(Σ⁻¹dΣ Σ⁻¹dΣ), where dΣ = dL Lᵀ + L dLᵀ.

    Args:
        factor: L, ``(*batch, E, d, r)``, of E independent Gaussians of d numbers for each sample.
            The columns of vec L stand one after another, each with the d numbers of all E.
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        self.factor = factor

    def root(self) -> Tensor:
        """R, upper triangular ``(*batch, E, d, d)``, with Σ = RᵀR, without squaring L."""
        return torch.linalg.qr(self.factor.mT)[1]

    def _size(self) -> torch.Size:
        *batch, count, d, r = self.factor.shape
        return torch.Size((*batch, *(count * d * (1 + r),) * 2))

    def _transpose_nonbatch(self) -> "CorrelatedInformation":
        return self

    def _expand_batch(self, batch_shape: torch.Size) -> "CorrelatedInformation":
        return self.__class__(self.factor.expand(*batch_shape, *self.factor.shape[-3:]))

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.ndim == 1:
            return self._matmul(rhs.unsqueeze(-1)).squeeze(-1)
        count, d, r = self.factor.shape[-3:]
        R = self.root().unsqueeze(-3)  # one dimension for the columns of rhs
        L = self.factor.unsqueeze(-3)

        def divide(changes: Tensor) -> Tensor:
            """Σ⁻¹ times changes ``(*batch, E, C, d, n)``."""
            half = torch.linalg.solve_triangular(R.mT, changes, upper=False)
            return torch.linalg.solve_triangular(R, half, upper=True)

        # (1 + r, E, d, C) → (E, C, d, 1 + r), for dμ and dL
        changes = rhs.unflatten(-2, (1 + r, count, d)).movedim((-1, -4), (-3, -1))
        dmean, dL = changes[..., :1], changes[..., 1:]
        dcovariance = dL @ L.mT + L @ dL.mT
        weighted = torch.cat([divide(dmean), divide(dcovariance) @ divide(L)], dim=-1)
        return weighted.movedim((-3, -1), (-1, -4)).flatten(-4, -2)

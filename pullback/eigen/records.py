"""What every eigensolver returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


class ConvergenceWarning(UserWarning):
    """Eigenpairs are less accurate than was asked for."""


class RankWarning(UserWarning):
    """More eigenpairs were asked for than the metric has above rounding error."""


@dataclass(frozen=True)
class EigenPairs:
    """The k largest eigenpairs of a symmetric positive semi-definite operator.

    Attributes:
        values: ``(*batch, k)``, descending; exactly 0 beyond the numerical rank.
        vectors: ``(*batch, N, k)``, orthonormal columns; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖Gv − λv‖₂, from explicit products.
        converged: ``(*batch, k)`` bool, whether the residual is at most
            max(tol·λ, 32·eps·λ₁).
        n_products: products with J or Jᵀ that a sample took, each column counted; the most of
            any sample of the batch.
        iterations: ``(*batch,)``, Krylov steps taken for each sample; 0 for direct methods.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    converged: Tensor
    n_products: int
    iterations: Tensor


@dataclass(frozen=True)
class Spectrum:
    """All that one run learns of a batch of spectra.

    Attributes:
        values: ``(B, r)`` float64, Ritz values, descending, padded with zeros.
        remainder: ``(B,)`` float64, trace of what the Ritz values leave out.
        remainder_error: ``(B,)`` float64, its standard error, or a bound on it.
        unresolved: ``(B,)``, how many eigenvalues share the remainder, at most.
    """

    values: Tensor
    remainder: Tensor
    remainder_error: Tensor
    unresolved: Tensor

    def replaced(self, where: Tensor, other: "Spectrum") -> "Spectrum":
        """A copy with the samples at ``where`` (indices) taken from another batch of spectra."""
        width = max(self.values.shape[-1], other.values.shape[-1])
        columns = {}
        for name, own in vars(self).items():
            new = getattr(other, name)
            if name == "values":
                own = torch.nn.functional.pad(own, (0, width - own.shape[-1]))
                new = torch.nn.functional.pad(new, (0, width - new.shape[-1]))
            columns[name] = own.index_copy(0, where, new)
        return Spectrum(**columns)


def rounding(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """σ/σ₁ under which a singular value is rounding error, for products of this shape and dtype.

    Errors of products of n terms add up like √n·eps; the factor 4 leaves a margin.
    """
    return 4 * max(shape) ** 0.5 * torch.finfo(dtype).eps


def zero_below(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """λ/λ₁ under which an eigenvalue is 0: that of the products, or of a float64 Gram matrix."""
    gram = 4 * min(shape) * torch.finfo(torch.float64).eps
    return max(rounding(shape, dtype) ** 2, gram)

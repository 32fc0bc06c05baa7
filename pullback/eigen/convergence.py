"""What counts as converged, what as rounding error, and the warnings where either falls short."""

import warnings

import torch
from torch import Tensor

from .records import EigenPairs


class ConvergenceWarning(UserWarning):
    """Eigenpairs are less accurate than was asked for."""


class RankWarning(UserWarning):
    """More eigenpairs were asked for than the metric has above rounding error."""


def accepted_residual(values: Tensor, norm: Tensor, tol: float, dtype: torch.dtype) -> Tensor:
    """max(tol·|λ|, 32·eps·‖A‖) for values ``(B, k)`` and norms ``(B,)``, eps that of ``dtype``."""
    noise = 32 * torch.finfo(dtype).eps * norm
    return torch.maximum(tol * values.abs(), noise.unsqueeze(-1))


def rounding(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """σ/σ₁ under which a singular value is rounding error, for products of this shape and dtype.

    Errors of products of n terms add up like √n·eps; the factor 4 leaves a margin.
    """
    return 4 * max(shape) ** 0.5 * torch.finfo(dtype).eps


def zero_below(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """λ/λ₁ under which an eigenvalue is 0: that of the products, or of a float64 Gram matrix."""
    gram = 4 * min(shape) * torch.finfo(torch.float64).eps
    return max(rounding(shape, dtype) ** 2, gram)


def warn_of_doubts(pairs: EigenPairs, tol: float) -> None:
    """Warn, at most once each, of eigenvalues beyond the rank and of pairs that missed ``tol``."""
    k = pairs.values.shape[-1]
    values, residual_norms = pairs.values.reshape(-1, k), pairs.residual_norms.reshape(-1, k)
    converged = pairs.converged.reshape(-1, k)
    rank = (values != 0).sum(-1)
    if (rank < k).any():
        lowest = int(rank.argmin())
        warnings.warn(
            f"k={k} exceeds the numerical rank of {int((rank < k).sum())} of {len(rank)} metrics "
            f"(rank {int(rank[lowest])} in sample {lowest}); the eigenvalues beyond it are "
            "returned as 0, with orthonormal vectors",
            RankWarning,
            stacklevel=4,
        )
    failed = ~converged.all(-1)
    if failed.any():
        worst = (residual_norms / values.abs().amax(-1, keepdim=True)).masked_fill(converged, 0.0)
        sample, rank_index = divmod(int(worst.argmax()), k)
        warnings.warn(
            f"eigenpairs of {int(failed.sum())} of {len(failed)} samples missed tol={tol:g}; "
            f"the worst residual is {worst.max().item():.1e}·λ₁ (sample {sample}, pair "
            f"{rank_index}); use float64 inputs or a larger tol",
            ConvergenceWarning,
            stacklevel=4,
        )

"""What counts as converged, what as rounding error, and the warnings where either falls short."""

import warnings

import torch
from torch import Tensor

from .records import EigenPairs, SingularTriplets


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


def warn_of_doubts(found: EigenPairs | SingularTriplets, tol: float, method: str = "auto") -> None:
    """Warn, at most once each, of values beyond the rank and of pairs that missed ``tol``."""
    k = found.values.shape[-1]
    values, residual_norms = found.values.reshape(-1, k), found.residual_norms.reshape(-1, k)
    converged = found.converged.reshape(-1, k)
    pairs = isinstance(found, EigenPairs)
    what, of, largest = ("eigen", "metrics", "λ₁") if pairs else ("singular ", "operators", "σ₁")
    rank, failed = (values != 0).sum(-1), ~converged.all(-1)
    if not ((rank < k) | failed).any():
        return
    if (rank < k).any():
        lowest = int(rank.argmin())
        warnings.warn(
            f"k={k} exceeds the numerical rank of {int((rank < k).sum())} of {len(rank)} {of} "
            f"(rank {int(rank[lowest])} in sample {lowest}); the {what}values beyond it are "
            "returned as 0, with orthonormal vectors",
            RankWarning,
            stacklevel=4,
        )
    if failed.any():
        worst = (residual_norms / values.abs().amax(-1, keepdim=True)).masked_fill(converged, 0.0)
        sample, rank_index = divmod(int(worst.argmax()), k)
        warnings.warn(
            f"{'eigenpairs' if pairs else 'singular triplets'} of {int(failed.sum())} of "
            f"{len(failed)} samples missed tol={tol:g}; the worst residual is "
            f"{worst.max().item():.1e}·{largest} (sample {sample}, pair {rank_index}); use "
            + _advice(values.dtype, method),
            ConvergenceWarning,
            stacklevel=4,
        )


def _advice(dtype: torch.dtype, method: str) -> str:
    """What may help, of what has not been tried."""
    choices = ["a larger tol"]
    if dtype != torch.float64:
        choices.insert(0, "float64 inputs")
    if method not in ("auto", "dual"):
        choices.insert(0, "method='dual'")
    return " or ".join(choices)

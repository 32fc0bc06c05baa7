"""The smaller side of J, where solvers iterate: the way there, a basis of it, and the way back."""

import copy
from dataclasses import replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from .convergence import rounding
from .dense import first_columns, normalise, project_out
from .records import Candidates, SolverResult
from .request import Request

# What is not finite, and so refused.
DERIVATIVE = "the map's derivative is NaN or infinite"
PRODUCT = "the operator's product is NaN or infinite"


def wide_jacobian(metric: PullbackMetric, method: str) -> LinearOperator:
    """J, or Jᵀ if J has more rows than columns: the rows are the smaller side.

    Raises:
        ValueError: the metric has a weight and J more rows than columns.
    """
    rows, columns = metric.jacobian.shape[-2:]
    if rows <= columns:
        return metric.jacobian
    if metric.weight is not None:
        raise ValueError(
            f"method={method!r} takes a weighted metric only if the Jacobian has no more rows "
            f"than columns, got {rows}×{columns}; use method='dual'"
        )
    return metric.jacobian.mT


def move_to_small_side(
    operator: LinearOperator, request: Request
) -> tuple[LinearOperator, Request]:
    """JJᵀ, with the non-zero spectrum of G = JᵀJ, if that is smaller; and what is asked of it.

    A tenth of the tolerance is for the way back, which a start may have been meant for as well.
    Weighted metrics, preconditioned ones and other operators stay what they are.
    """
    if not isinstance(operator, PullbackMetric) or request.which != "largest":
        return operator, request
    rows, columns = operator.jacobian.shape[-2:]
    own = request.preconditioner is not None  # it is one for the metric itself
    smaller = rows < columns and operator.weight is None and not own
    side = PullbackMetric(operator.jacobian.mT) if smaller else operator
    start, n = request.start, side.shape[-1]
    if own or (start is not None and start.shape[-2] != n):
        start = None
    return side, replace(request, k=min(request.k, n), tol=request.tol / 10, start=start)


def lift(operator: LinearOperator, found: SolverResult, k: int) -> SolverResult:
    """k candidates for the operator from eigenvectors of it or of its smaller side: v = Jᵀu.

    Where there are fewer, zeros stand for the rest. A product that was found with JJᵀ, or with the
    metric itself, is one with J and one with Jᵀ.
    """
    vectors, n_products = found.candidates.vectors.to(operator.dtype), found.n_products
    if isinstance(operator, PullbackMetric):
        n_products *= 2
    if vectors.shape[-2] != operator.shape[-1]:
        n_products += vectors.shape[-1]
        vectors = operator.jacobian._t_matmul(vectors)
    candidates = Candidates(first_columns(vectors, k))
    return replace(found, candidates=candidates, n_products=n_products)


def multiply(A: LinearOperator, block: Tensor) -> Tensor:
    """A times columns ``(B, n, C)``, computed in A's dtype, in float64."""
    if block.shape[-1] == 0:
        return block
    images = A._matmul(block.to(A.dtype))
    require_finite(images, PRODUCT)
    return images.double()


def unit_start(start: Tensor, A: LinearOperator) -> Tensor:
    """Starting vectors ``(n, p)`` or ``(B, n, p)`` as unit vectors ``(B, n, p)`` in float64.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    batch, n = A.shape[0], A.shape[-1]
    if tuple(start.shape[:-1]) not in ((n,), (batch, n)) or start.shape[-1] == 0:
        raise ValueError(
            f"start must have shape ({n}, p) or ({batch}, {n}, p), got {tuple(start.shape)}"
        )
    block = start.to(dtype=torch.float64, device=A.device).expand(batch, -1, -1)
    require_finite(block, "start is NaN or infinite")
    return normalise(block)


def weigh(metric: PullbackMetric, columns: Tensor) -> Tensor:
    """M times float64 columns ``(B, M, C)``, computed in the metric's dtype, in float64."""
    return _weigh(metric.weight, columns, metric.dtype)


def _weigh(weight: LinearOperator | None, columns: Tensor, dtype: torch.dtype) -> Tensor:
    return columns if weight is None else (weight @ columns.to(dtype)).double()


class WeightedBasis:
    """A basis, orthonormal in the weight's inner product, in float64, one vector a row.

    Attributes:
        vectors: U, ``(B, j, m)``.
        weighted: M times them.
    """

    def __init__(self, metric: PullbackMetric, size: int) -> None:
        self.weight, self.dtype = metric.weight, metric.dtype
        empty = (metric.shape[0], 0, size)
        self.vectors = torch.empty(empty, dtype=torch.float64, device=metric.device)
        self.weighted = self.vectors
        # ‖M‖ and the largest pᵀMp, as far as they have shown.
        self.rounding = rounding((size, size), self.dtype)
        self.size = self.largest = self.vectors.new_zeros(len(self.vectors))

    def select(self, samples: Tensor) -> "WeightedBasis":
        """The bases of some samples (indices)."""
        chosen = copy.copy(self)
        chosen.weight = None if self.weight is None else self.weight[samples]
        chosen.vectors = self.vectors[samples]
        chosen.size, chosen.largest = self.size[samples], self.largest[samples]
        chosen.weighted = chosen.vectors if self.weight is None else self.weighted[samples]
        return chosen

    def weigh(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """M p for p ``(B, m)``, and √(pᵀMp), 0 where it is rounding error."""
        weighted = _weigh(self.weight, p.unsqueeze(-1), self.dtype).squeeze(-1)
        squares = (p * weighted).sum(-1)
        if self.weight is not None:
            # Small eigenvalues of M are lost in the rounding of M p, and so is what is small in G.
            lengths = p.square().sum(-1)
            sizes = weighted.square().sum(-1) / torch.where(lengths > 0, lengths, 1.0)
            self.size = torch.maximum(self.size, sizes.sqrt())
            self.largest = torch.maximum(self.largest, squares)
            noise = self.rounding * torch.minimum(self.size * lengths, self.largest)
            squares = torch.where(squares > noise, squares, 0.0)
        return weighted, squares.clamp(min=0).sqrt()

    def orthogonalise(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """What p ``(B, m)`` has outside of the basis, and its coefficients ``(B, j)`` in it."""
        rest, inside = project_out(p.unsqueeze(-1), self.vectors.mT, self.weighted.mT)
        return rest.squeeze(-1), inside.squeeze(-1)

    def append(self, u: Tensor, weighted: Tensor) -> None:
        """Add a vector and M times it."""
        self.vectors = torch.cat([self.vectors, u.unsqueeze(1)], dim=1)
        if self.weight is None:
            self.weighted = self.vectors
        else:
            self.weighted = torch.cat([self.weighted, weighted.unsqueeze(1)], dim=1)

    def rotate(self, X: Tensor) -> None:
        """Replace the basis by combinations of it, for orthonormal X ``(B, j, l)``."""
        self.vectors = X.mT @ self.vectors
        self.weighted = self.vectors if self.weight is None else X.mT @ self.weighted

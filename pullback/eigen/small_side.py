"""The smaller side of J, where solvers iterate: the way there, and the way back."""

from dataclasses import replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from .dense import first_columns, normalise
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
    return columns if metric.weight is None else apply_weight(metric.weight, columns, metric.dtype)


def apply_weight(weight: LinearOperator, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight times float64 columns ``(B, M, C)``, computed in ``dtype``, in float64."""
    product: Tensor = weight @ columns.to(dtype)
    return product.double()

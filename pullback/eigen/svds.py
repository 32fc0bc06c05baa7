"""`svds`: leading singular triplets of rectangular operators."""

from dataclasses import dataclass

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_integer
from ..operators import PullbackMetric
from ..products import library_call
from .eigsh import eigsh


@dataclass(frozen=True)
class SingularTriplets:
    """The k largest singular triplets J v = σ u of a linear operator.

    Attributes:
        left: ``(*batch, M, k)``, orthonormal u.
        values: ``(*batch, k)``, σ, descending; exactly 0 beyond the numerical rank.
        right: ``(*batch, N, k)``, orthonormal v; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖JᵀJ v − σ² v‖₂/σ, which is ‖Jᵀu − σv‖₂; 0 where σ is.
        converged, n_products, iterations: see :class:`EigenPairs`.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    residual_norms: Tensor
    converged: Tensor
    n_products: int
    iterations: Tensor


@library_call
def svds(
    jacobian: LinearOperator,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> SingularTriplets:
    """The k largest singular triplets of a rectangular operator, such as a Jacobian.

    From the eigenpairs of its Gram operator, see :func:`eigsh`, and k further products. A small
    singular value has the absolute error of a square root: σ below √eps·σ₁ is uncertain.

    Args:
        jacobian: ``(*batch, M, N)``.
        k: how many, 1 ≤ k ≤ min(M, N).
        method, tol, generator: as for :func:`eigsh`.

    Raises:
        TypeError, ValueError: see :func:`eigsh`; and if k exceeds min(M, N).
    """
    k = require_integer("k", k, 1, min(jacobian.shape[-2:]), "min(M, N)")
    pairs = eigsh(PullbackMetric(jacobian), k, method, tol, generator)
    # The images σu are orthogonal; QR also completes them where σ is 0.
    left, R = torch.linalg.qr(jacobian @ pairs.vectors)
    sign = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(left.dtype)
    values = pairs.values.sqrt()
    return SingularTriplets(
        left=left * sign.unsqueeze(-2),
        values=values,
        right=pairs.vectors,
        residual_norms=torch.where(values > 0, pairs.residual_norms / values, 0.0),
        converged=pairs.converged,
        n_products=pairs.n_products + k,
        iterations=pairs.iterations,
    )

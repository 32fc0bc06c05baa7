"""`svds`: leading singular triplets of rectangular operators."""

import torch
from linear_operator import LinearOperator

from ..arguments import require_integer, require_square
from ..operators import PullbackMetric
from ..products import library_call
from .convergence import warn_of_doubts
from .driver import find_triplets, map_over_batch
from .records import SingularTriplets
from .request import Request, check_request


@library_call
def svds(
    jacobian: LinearOperator,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> SingularTriplets:
    """The k largest singular triplets of a rectangular operator, such as a Jacobian.

    From the eigenpairs of its Gram operator, see :func:`eigsh`, and k further products. By the
    methods ``"dual"`` and ``"golub-kahan"``, of which ``"auto"`` takes one, small ones are as
    accurate as σ₁: about eps·σ₁, and under 4·√max(M, N)·eps·σ₁ they are 0. The others square J, and
    find nothing under √eps·σ₁; what they miss there has not converged.

    Args:
        jacobian: ``(*batch, M, N)``.
        k: how many, 1 ≤ k ≤ min(M, N).
        method, tol, generator: as for :func:`eigsh`.

    Raises:
        TypeError, ValueError: see :func:`eigsh`; and if k exceeds min(M, N).
    """
    metric = PullbackMetric(jacobian)
    require_square(metric)  # its dtype
    k = require_integer("k", k, 1, min(jacobian.shape[-2:]), "min(M, N)")
    request = check_request(metric, Request(k, method, tol))
    triplets = map_over_batch(
        jacobian, lambda part, streams: find_triplets(part, request, streams), generator
    )
    warn_of_doubts(triplets, tol, method)
    return triplets

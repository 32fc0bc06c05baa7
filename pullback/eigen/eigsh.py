"""`eigsh`: leading eigenpairs of pullback metrics and of other symmetric operators."""

import torch
from linear_operator import LinearOperator

from ..arguments import require_square
from ..products import library_call
from .convergence import warn_of_doubts
from .driver import find_pairs, map_over_batch
from .records import EigenPairs
from .request import Preconditioner, Request, check_request
from .warm_start import WarmStart


@library_call
def eigsh(
    metric: LinearOperator,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
    *,
    which: str = "largest",
    block: int = 1,
    warm_start: WarmStart | None = None,
    preconditioner: Preconditioner | None = None,
) -> EigenPairs:
    """k eigenpairs of a symmetric positive semi-definite operator, for every sample of its batch.

    Args:
        metric: ``(*batch, N, N)``, a :class:`PullbackMetric` or any other symmetric positive
            semi-definite linear operator; works in its dtype.
        k: how many, 1 ≤ k ≤ N. Beyond the rank, values are exactly 0 and vectors orthonormal, and
            a :class:`RankWarning` says so.
        method: with J the metric's Jacobian, M×N,
            ``"dual"``: exact, from M rows of J (or N columns, if they are fewer);
            ``"golub-kahan"``: bidiagonalisation of J; restarts when 2k + 90 vectors are kept;
            ``"lanczos"``: thick-restart Lanczos on JJᵀ;
            ``"lobpcg"``: block conjugate gradients on JJᵀ, or on the metric with a preconditioner;
            ``"nystrom"``: one pass over a sketch of JJᵀ, random or from ``warm_start``; samples
            that miss the tolerance go on with ``"golub-kahan"``;
            ``"auto"``: the cheaper of ``"dual"`` and ``"golub-kahan"`` by
            :func:`pullback.eigen.expected_products`. If a sample is not finished after min(M, N)/2
            steps, because its spectrum decays slowly, ``"dual"`` takes over, unless the
            Jacobian has over 2²⁶ entries.
            For an operator that is no pullback metric, Lanczos and LOBPCG work on the operator
            itself, the others with J the identity; ``"auto"`` is ``"lanczos"``.
        tol: an eigenpair is converged when ‖Gv − λv‖ ≤ max(tol·λ, 32·eps·λ₁). Golub–Kahan steps
            are taken until the eigenvector is that accurate as well, down to gaps of λ/100.
        generator: seeds the random vectors; without one the seed is 0. The result for a
            sample depends on the seed and its position in the data, not on the batch size.
        which: ``"largest"``; or, by Lanczos on the operator itself, which may then be indefinite,
            ``"smallest"`` or ``"both"`` (⌈k/2⌉ of the high end and ⌊k/2⌋ of the low end).
        block: vectors that a Golub–Kahan step adds.
        warm_start: a subspace learnt from earlier batches, for ``"nystrom"``, ``"lanczos"`` and
            ``"lobpcg"``; learns from this one. Golub–Kahan, which could start from one vector of it
            only, gains nothing by it.
        preconditioner: for ``"lobpcg"``: a linear operator or a function of residuals
            ``(B, N, C)``, positive definite, near the inverse of μ − G for μ just above λ₁.

    Returns:
        :class:`EigenPairs`, values descending; not differentiable.

    Raises:
        TypeError: ``metric`` is no linear operator, or k is no integer.
        ValueError: an argument is out of range, or does not go with the method.

    Warns:
        RankWarning, ConvergenceWarning: at most once each, with the samples concerned.
    """
    require_square(metric)
    request = Request(k, method, tol, None, which, block, warm_start, preconditioner)
    request = check_request(metric, request)
    pairs = map_over_batch(
        metric, lambda part, streams: find_pairs(part, request, streams), generator
    )
    warn_of_doubts(pairs, tol, method)
    return pairs

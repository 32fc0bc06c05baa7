"""LOBPCG: locally optimal block preconditioned conjugate gradients, for a batch of operators.

Knyazev, "Toward the optimal preconditioned eigensolver" (2001), with soft locking as in Knyazev et
al., "BLOPEX" (2007), and the orthonormal basis of Hetmaniuk & Lehoucq, "Basis selection in LOBPCG"
(2006), and Duersch et al., "A robust and efficient implementation of LOBPCG" (2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..sampling import SampleStreams
from .records import EigenPairs
from .subspace import (
    accepted_residual,
    as_start,
    orthonormalised,
    product,
    projected,
    ritz,
    verified,
)

Preconditioner: TypeAlias = LinearOperator | Callable[[Tensor], Tensor]

# Vectors iterated beyond k: convergence depends on the gap below the last of them. Half of them
# are always random.
GUARDS = 4

# Iterations that a start, or a search for what it lacked, lasts at least, and the relative change
# of a wanted eigenvalue after which to search once more.
SEARCH = 3
MARGIN = 0.01

# Change of a unit vector under which its direction is rounding error.
STILL = 1e-12


@torch.no_grad()
def lobpcg(
    A: LinearOperator,
    k: int,
    tol: float,
    streams: SampleStreams,
    start: Tensor | None = None,
    preconditioner: Preconditioner | None = None,
    max_iterations: int = 500,
) -> EigenPairs:
    """The k largest eigenpairs of a symmetric operator, definite or not.

    In each iteration a block of k + 4 vectors X is replaced by the leading Ritz vectors of the span
    of X, the preconditioned residuals W and the previous change P. Vectors that have converged
    stay in X but get no residual column, and so no product. If 3(k + 4) > n, the matrix is formed
    and diagonalised.

    Residuals certify that the pairs are eigenpairs, not that none larger is missing: copies of
    repeated eigenvalues are found up to the size of the block. A sample stops once its guard
    vectors have residuals under λ_k/10 as well, and not before three iterations, in which random
    guards find what a start lacks. If they moved a wanted value by over 1 %, the start was poor:
    the guards are drawn anew, and the search repeated.

    Args:
        A: ``(B, n, n)``, float32 or float64.
        k: how many, 1 ≤ k ≤ n.
        tol: a pair is converged when ‖Av − λv‖ ≤ max(tol·|λ|, 32·eps·‖A‖). Iterations go on until
            half of that.
        streams: random vectors; a sample's result depends on its own stream alone.
        start: ``(n, p)`` or ``(B, n, p)``, approximate eigenvectors, leading ones first. The first
            k + 2 are used; the rest of the block is random.
        preconditioner: applied to residuals ``(B, n, C)``; symmetric and positive definite, near
            the inverse of μ − A for μ not far above the spectrum.
        max_iterations: give up on samples that need more.

    Returns:
        :class:`EigenPairs`; ``n_products`` counts columns that were not zero.

    Raises:
        ValueError: ``start`` does not fit, or a product or preconditioned residual is not finite.
    """
    n, block = A.shape[-1], k + GUARDS
    if 3 * block > n:
        return _dense(A, k, tol)
    state = _begin(A, block, k, streams, start)
    active = torch.ones(A.shape[0], dtype=torch.bool, device=A.device)
    iterations = torch.zeros(A.shape[0], dtype=torch.long, device=A.device)
    products, since = torch.full_like(iterations, block), torch.zeros_like(iterations)
    # A block that is all random lacks nothing: there is no value to compare with.
    before = state.values if start is not None else torch.full_like(state.values, torch.nan)
    while True:
        residuals = state.AX - state.X * state.values.unsqueeze(-2)
        converged, settled = _judge(residuals.norm(dim=-2), state, k, tol, A.dtype)
        exhausted = iterations == max_iterations
        ready = active & settled & (since >= SEARCH) & ~exhausted
        margin = accepted_residual(before, state.norm, MARGIN, A.dtype)
        poor = ready & ((state.values - before).abs() > margin)[:, :k].any(-1)
        if poor.any():
            state = _renew(A, state, k, streams, poor)
            before = torch.where(poor.unsqueeze(-1), state.values, before)
            products, since = products + GUARDS * poor, since * ~poor
            continue
        active = active & ~ready & ~exhausted
        if not active.any():
            break
        moving = active.unsqueeze(-1) & ~converged
        W = _preconditioned(residuals * moving.unsqueeze(-2), preconditioner, A.dtype)
        W = orthonormalised(W, torch.cat([state.X, state.P], dim=-1))
        used = (W != 0).any(-2)
        W = W[..., used.any(0)]
        state = _advance(state, W, product(A, W), active)
        products, since, iterations = products + used.sum(-1), since + active, iterations + active
    return verified(A, state.X[..., :k], tol, state.norm, products, iterations)


@dataclass(frozen=True)
class _State:
    """X and P, together orthonormal, and A times them; ``(B, n, block)`` float64.

    Columns of P may be zero. ``values`` ``(B, block)`` belong to X, descending; ``norm`` ``(B,)``
    is the largest Ritz value in modulus so far.
    """

    X: Tensor
    AX: Tensor
    P: Tensor
    AP: Tensor
    values: Tensor
    norm: Tensor


def _begin(
    A: LinearOperator, block: int, k: int, streams: SampleStreams, start: Tensor | None
) -> _State:
    like = torch.empty(0, dtype=torch.float64, device=A.device)
    X = streams.normal(A.shape[-1], block, like=like)
    if start is not None:
        given = as_start(start, A)[..., : k + GUARDS // 2]
        X = torch.cat([given, X[..., given.shape[-1] :]], dim=-1)
    # Where the start is dependent, Householder vectors complete it.
    X = torch.linalg.qr(X)[0]
    return _restricted(X, product(A, X))


def _renew(
    A: LinearOperator, state: _State, k: int, streams: SampleStreams, where: Tensor
) -> _State:
    """Replace the guard vectors by random ones, for the samples ``where``; P is dropped."""
    X, AX = state.X[..., :k], state.AX[..., :k]
    drawn = streams.normal(A.shape[-1], GUARDS, like=X, where=where)
    fresh = orthonormalised(drawn, X)
    other = _restricted(torch.cat([X, fresh], -1), torch.cat([AX, product(A, fresh)], -1))
    return _State(
        **{
            name: torch.where(where.view(-1, *(1,) * (own.ndim - 1)), getattr(other, name), own)
            for name, own in vars(state).items()
        }
    )


def _judge(
    norms: Tensor, state: _State, k: int, tol: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Which vectors ``(B, block)`` have converged, and for which samples ``(B,)`` that suffices."""
    converged = norms <= accepted_residual(state.values, state.norm, tol, dtype) / 2
    last = state.values[:, k - 1 : k]
    guarded = (norms <= accepted_residual(last, state.norm, 0.1, dtype)).all(-1)
    return converged, converged[:, :k].all(-1) & guarded


def _restricted(X: Tensor, AX: Tensor) -> _State:
    values, C = torch.linalg.eigh(projected(X, AX))
    values, C = values.flip(-1), C.flip(-1)
    nothing = torch.zeros_like(X)
    return _State(X @ C, AX @ C, nothing, nothing, values, values.abs().amax(-1))


def _advance(state: _State, W: Tensor, AW: Tensor, active: Tensor) -> _State:
    """Rayleigh–Ritz on the span of X, P and W, for the samples that are ``active``.

    Coefficients of the new P are those of the new X without its part in the old X, made orthonormal
    to the new X: so X, P and their images are always combined by orthonormal matrices, and
    rounding errors do not grow (Hetmaniuk & Lehoucq 2006).
    """
    block = state.X.shape[-1]
    S = torch.cat([state.X, state.P, W], dim=-1)
    AS = torch.cat([state.AX, state.AP, AW], dim=-1)
    valid = (S != 0).any(-2)
    values, vectors = ritz(projected(S, AS), valid)
    largest = torch.where(valid.sort(dim=-1).values, values.abs(), 0.0).amax(-1)
    C = vectors[..., -block:].flip(-1) * valid.unsqueeze(-1)
    change = C.clone()
    change[:, :block] = 0
    change = torch.where(change.norm(dim=-2, keepdim=True) > STILL, change, 0.0)
    D = orthonormalised(change, C)

    active = active[:, None, None]
    return _State(
        X=torch.where(active, S @ C, state.X),
        AX=torch.where(active, AS @ C, state.AX),
        P=torch.where(active, S @ D, state.P),
        AP=torch.where(active, AS @ D, state.AP),
        values=torch.where(active[..., 0], values[:, -block:].flip(-1), state.values),
        norm=torch.maximum(state.norm, largest),
    )


def _preconditioned(
    residuals: Tensor, preconditioner: Preconditioner | None, dtype: torch.dtype
) -> Tensor:
    if preconditioner is None:
        return residuals
    columns = residuals.to(dtype)
    if isinstance(preconditioner, LinearOperator):
        images = preconditioner @ columns
    else:
        images = preconditioner(columns)
    require_finite(images, "the preconditioner's result is NaN or infinite")
    return images.double()


def _dense(A: LinearOperator, k: int, tol: float) -> EigenPairs:
    """All of a small matrix, from n products."""
    batch, n = A.shape[0], A.shape[-1]
    identity = torch.eye(n, dtype=torch.float64, device=A.device).expand(batch, n, n)
    values, vectors = torch.linalg.eigh(projected(identity, product(A, identity)))
    none = torch.zeros(batch, dtype=torch.long, device=A.device)
    norm = values.abs().amax(-1)
    return verified(A, vectors[..., -k:].flip(-1), tol, norm, none + n, none)

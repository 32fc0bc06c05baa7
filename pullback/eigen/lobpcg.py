"""LOBPCG: locally optimal block preconditioned conjugate gradients, for a batch of operators.

Knyazev, "Toward the optimal preconditioned eigensolver" (2001), with soft locking as in Knyazev et
al., "BLOPEX" (2007), and the orthonormal basis of Hetmaniuk & Lehoucq, "Basis selection in LOBPCG"
(2006), and Duersch et al., "A robust and efficient implementation of LOBPCG" (2018).
"""

from dataclasses import dataclass

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..sampling import SampleStreams
from .convergence import accepted_residual
from .dense import descending_eigh, orthonormalise, padded_eigh, symmetrise
from .records import Candidates, SolverResult
from .request import Preconditioner, Request
from .small_side import lift, move_to_small_side, multiply, unit_start

# Vectors iterated beyond k: convergence depends on the gap below the last of them. Half of them
# are always random.
GUARDS = 4

# Iterations that a start, or a search for what it lacked, lasts at least, and the relative change
# of a wanted eigenvalue after which to search once more.
SEARCH = 3
MARGIN = 0.01

# Change of a unit vector under which its direction is rounding error.
STILL = 1e-12

# Iterations after which a sample is given up.
MAX_STEPS = 500


@torch.no_grad()
def lobpcg(operator: LinearOperator, request: Request, streams: SampleStreams) -> SolverResult:
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

    Of a pullback metric without a preconditioner, the smaller side of its J is iterated on. The
    first k + 2 vectors of ``start`` are used, and the rest of the block is random. Products that
    are counted are columns that were not zero. ``max_steps`` is 500 by default.

    Raises:
        ValueError: ``start`` does not fit, or a product or preconditioned residual is not finite.
    """
    A, side_request = move_to_small_side(operator, request)
    k, block = side_request.k, side_request.k + GUARDS
    if 3 * block > A.shape[-1]:
        X, norm, products = _diagonalise(A)
        iterations = torch.zeros_like(products)
    else:
        X, norm, products, iterations = _iterate(A, side_request, block, streams)
    result = SolverResult(Candidates(X[..., :k]), iterations, int(products.max()), norm=norm)
    return lift(operator, result, request.k)


def _iterate(
    A: LinearOperator, request: Request, block: int, streams: SampleStreams
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X ``(B, n, block)``, the norm of A, and products and iterations of each sample, ``(B,)``."""
    k, most = request.k, MAX_STEPS if request.max_steps is None else request.max_steps
    state = _begin(A, block, request, streams)
    active = torch.ones(A.shape[0], dtype=torch.bool, device=A.device)
    iterations = torch.zeros(A.shape[0], dtype=torch.long, device=A.device)
    products, since = torch.full_like(iterations, block), torch.zeros_like(iterations)
    # A block that is all random lacks nothing: there is no value to compare with.
    random = request.start is None
    before = torch.full_like(state.values, torch.nan) if random else state.values
    while True:
        # R = A X − X Λ: which vectors have converged, and which samples may stop?
        residuals = state.AX - state.X * state.values.unsqueeze(-2)
        converged, settled = _judge(residuals.norm(dim=-2), state, k, request.tol, A.dtype)
        exhausted = iterations == most
        ready = active & settled & (since >= SEARCH) & ~exhausted

        # Draw the guards anew where they have found what the start lacked.
        margin = accepted_residual(before, state.norm, MARGIN, A.dtype)
        poor = ready & ((state.values - before).abs() > margin)[:, :k].any(-1)
        if poor.any():
            state = _renew_guards(A, state, k, streams, poor)
            before = torch.where(poor.unsqueeze(-1), state.values, before)
            products, since = products + GUARDS * poor, since * ~poor
            continue
        active = active & ~ready & ~exhausted
        if not active.any():
            return state.X, state.norm, products, iterations

        # W = the preconditioned R of what moves, orthonormal to X and P
        moving = active.unsqueeze(-1) & ~converged
        W = _precondition(residuals * moving.unsqueeze(-2), request.preconditioner, A.dtype)
        W = orthonormalise(W, torch.cat([state.X, state.P], dim=-1))
        used = (W != 0).any(-2)
        W = W[..., used.any(0)]

        # X ← the leading Ritz vectors of [X P W], P ← what is new in them
        state = _advance(state, W, multiply(A, W), active)
        products, since, iterations = products + used.sum(-1), since + active, iterations + active


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


def _begin(A: LinearOperator, block: int, request: Request, streams: SampleStreams) -> _State:
    like = torch.empty(0, dtype=torch.float64, device=A.device)
    X = streams.normal(A.shape[-1], block, like=like)
    if request.start is not None:
        given = unit_start(request.start, A)[..., : request.k + GUARDS // 2]
        X = torch.cat([given, X[..., given.shape[-1] :]], dim=-1)
    # Where the start is dependent, Householder vectors complete it.
    X = torch.linalg.qr(X)[0]
    return _rotate_to_ritz(X, multiply(A, X))


def _renew_guards(
    A: LinearOperator, state: _State, k: int, streams: SampleStreams, where: Tensor
) -> _State:
    """Replace the guard vectors by random ones, for the samples ``where``; P is dropped."""
    X, AX = state.X[..., :k], state.AX[..., :k]
    drawn = streams.normal(A.shape[-1], GUARDS, like=X, where=where)
    fresh = orthonormalise(drawn, X)
    other = _rotate_to_ritz(torch.cat([X, fresh], -1), torch.cat([AX, multiply(A, fresh)], -1))
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


def _rotate_to_ritz(X: Tensor, AX: Tensor) -> _State:
    values, C = descending_eigh(X.mT @ AX)
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
    values, vectors = padded_eigh(symmetrise(S.mT @ AS), valid)
    largest = torch.where(valid.sort(dim=-1).values, values.abs(), 0.0).amax(-1)
    C = vectors[..., -block:].flip(-1) * valid.unsqueeze(-1)
    change = C.clone()
    change[:, :block] = 0
    change = torch.where(change.norm(dim=-2, keepdim=True) > STILL, change, 0.0)
    D = orthonormalise(change, C)

    active = active[:, None, None]
    return _State(
        X=torch.where(active, S @ C, state.X),
        AX=torch.where(active, AS @ C, state.AX),
        P=torch.where(active, S @ D, state.P),
        AP=torch.where(active, AS @ D, state.AP),
        values=torch.where(active[..., 0], values[:, -block:].flip(-1), state.values),
        norm=torch.maximum(state.norm, largest),
    )


def _precondition(
    residuals: Tensor, preconditioner: Preconditioner | None, dtype: torch.dtype
) -> Tensor:
    if preconditioner is None:
        return residuals
    columns = residuals.to(dtype)
    if isinstance(preconditioner, LinearOperator):
        images = preconditioner @ columns
    else:
        images = preconditioner(columns)
    if not isinstance(images, Tensor) or images.shape != columns.shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"the preconditioner must return residuals {tuple(columns.shape)} as it takes them, "
            f"got {got}"
        )
    require_finite(images, "the preconditioner's result is NaN or infinite")
    return images.double()


def _diagonalise(A: LinearOperator) -> tuple[Tensor, Tensor, Tensor]:
    """All eigenvectors of a small matrix, its norm, and the products taken, ``(B,)``."""
    batch, n = A.shape[0], A.shape[-1]
    identity = torch.eye(n, dtype=torch.float64, device=A.device).expand(batch, n, n)
    values, vectors = descending_eigh(multiply(A, identity))
    products = torch.full((batch,), n, dtype=torch.long, device=A.device)
    return vectors, values.abs().amax(-1), products

"""Thick-restart Lanczos for either end, or both, of the spectrum of a symmetric operator.

Wu & Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems" (2000), with
full reorthogonalisation in float64.
"""

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..sampling import SampleStreams
from .convergence import accepted_residual
from .dense import normalise, padded_eigh, project_out
from .records import Candidates, SolverResult
from .request import Request
from .small_side import lift, move_to_small_side, multiply, unit_start

# Accepted probability that a verification misses an eigenvector.
MISS = 1e-3

# How many eigenvalues are taken from the high and from the low end.
Ends = tuple[int, int]


@torch.no_grad()
def lanczos(operator: LinearOperator, request: Request, streams: SampleStreams) -> SolverResult:
    """k eigenpairs at the ends of the spectrum of a symmetric operator, definite or not.

    A sample's basis grows by one vector a product. When it is full, the best half of its Ritz
    vectors is kept. Converged ones stay in the basis, where they cost nothing.

    A Krylov space holds one vector of a repeated eigenvalue, and none of an eigenvector that its
    start is orthogonal to. Therefore, once the k pairs have converged, the basis is refilled
    from a random vector orthogonal to them; if a wanted value changes, the search goes on.
    This ends as soon as an eigenvector missed, with an eigenvalue beyond the last wanted one by
    more than tol, would have shown with probability 0.999: by the recurrence from that vector, or,
    once the basis has been restarted, when the next Ritz pair at each end is so accurate that it
    cannot be a mixture with one missed. It also ends when the basis spans the space, or when it
    has lasted as long as all that came before.

    A pullback metric's leading pairs are looked for on the smaller side of its J. The directions of
    ``start`` are summed to start the recurrence, which takes about as many products as they are to
    converge if they are good. ``max_basis`` is at least min(n, k + 2), 2k + 40 by default;
    ``max_steps`` 10n + 100 − k by default, and at least k are taken.

    Raises:
        ValueError: ``start`` or ``max_basis`` is not one of those, or a product is not finite.
    """
    A, side_request = move_to_small_side(operator, request)
    n, k = A.shape[-1], side_request.k
    wanted = _ends(k, side_request.which)
    limit = _basis_size(n, side_request)
    kept = _ends(k + (limit - k) // 2, side_request.which)
    most = max(k, 10 * n + 100 - k if side_request.max_steps is None else side_request.max_steps)

    state = ThickRestart(A, limit, streams, side_request.start)
    active = torch.ones(A.shape[0], dtype=torch.bool, device=A.device)
    verifying, restarted = torch.zeros_like(active), torch.zeros_like(active)
    verified, began = torch.zeros_like(active), torch.zeros_like(state.steps)
    found = torch.zeros(A.shape[0], k, dtype=torch.float64, device=A.device)
    next_check = torch.full_like(state.size, k)
    while active.any():
        # A Q = Q T + β q eᵀ, with Q ← [Q q].
        state.step(active)
        full = state.size == limit
        last = (state.size == n) | (state.steps == most)
        due = active & (full | last | verifying | (state.size == next_check))
        rows = due.nonzero().flatten()
        if not len(rows):
            continue
        full, last = full[rows], last[rows]

        # Rayleigh–Ritz on the span of Q.
        values, residuals = state.ritz_values(rows, wanted)
        accepted = accepted_residual(values, state.norm[rows], side_request.tol / 5, A.dtype) / 2
        converged = (residuals <= accepted).all(-1)

        # Where pairs found before are verified: do they still lead, and can one be missing?
        missed = ((values - found[rows]).abs() > accepted).any(-1)
        holds, spans = verifying[rows] & ~missed, state.size[rows] == n
        long = restarted[rows] & (state.steps[rows] >= 2 * began[rows])
        complete = holds & (spans | long)
        for ask, where in (
            (state.rules_out_others, holds & ~restarted[rows]),
            (state.rules_out_mixtures, holds & restarted[rows] & full),
        ):
            if where.any():
                complete[where] |= ask(rows[where], found[rows[where]], wanted, side_request.tol)

        # Where the pairs have converged, keep them alone, and verify them from a random vector.
        ready = ~holds & (last | converged)
        state.restart(rows[ready], wanted)
        state.renew(rows[ready & ~last])
        restarted[rows[ready]], began[rows[ready]] = False, state.steps[rows[ready]]
        verifying[rows] = holds | (ready & ~last)
        found[rows[ready]] = values[ready]

        # Elsewhere, make room in a full basis; and stop what is complete, or has no steps left.
        over = complete | (last & holds)
        state.restart(rows[full & ~over & ~ready], kept)
        restarted[rows[full & ~over & ~ready]] = True
        # A basis restarted since begins with others than those wanted, at the low end.
        state.restart(rows[over & restarted[rows]], wanted)
        verified[rows[complete | (ready & spans)]] = True
        active[rows[over | (ready & last)]] = False
        # A check costs an eigendecomposition: at most an eighth of the steps may be superfluous.
        next_check[rows] = state.size[rows] + (state.size[rows] // 8).clamp(min=1)
    vectors, products = Candidates(state.basis[:, :k].mT), int(state.steps.max())
    result = SolverResult(vectors, state.steps, products, finished=verified, norm=state.norm)
    return lift(operator, result, request.k)


def _basis_size(n: int, request: Request) -> int:
    k, most = request.k, request.max_basis
    size = min(n, 2 * k + 40 if most is None else most)
    if size < min(n, k + 2):
        raise ValueError(f"max_basis={most} must be at least min(n, k + 2) = {min(n, k + 2)}")
    return size


def _ends(count: int, which: str) -> Ends:
    high = {"largest": count, "smallest": 0, "both": (count + 1) // 2}[which]
    return high, count - high


class ThickRestart:
    """A batch of Lanczos factorisations A Q = Q T + β q eᵀ, each with its own number of columns.

    After :meth:`step`, sample i has s = ``size[i]`` orthonormal vectors Q, the rows
    ``basis[i, :s]`` (float64), and the next one, q, in ``basis[i, s]``; T is ``T[i, :s, :s]``, β is
    ``beta[i]`` and e the last unit vector. All beyond is 0. Right after :meth:`restart`, T is
    diagonal, and β e a full vector until the next step.
    """

    def __init__(
        self, A: LinearOperator, limit: int, streams: SampleStreams, start: Tensor | None = None
    ) -> None:
        batch, n = A.shape[0], A.shape[-1]
        self.A, self.streams, self.limit = A, streams, limit
        like = torch.empty(0, dtype=torch.float64, device=A.device)
        self.basis = like.new_zeros(batch, limit + 1, n)
        self.T = like.new_zeros(batch, limit + 1, limit + 1)
        self.beta, self.norm = like.new_zeros(batch), like.new_zeros(batch)
        self.size = torch.zeros(batch, dtype=torch.long, device=A.device)
        self.steps = torch.zeros_like(self.size)
        self.each = torch.arange(batch, device=A.device)
        q = self.basis[:, 0] if start is None else unit_start(start, A).sum(-1)
        # A sum of directions that cancel says nothing.
        q = torch.where(q.norm(dim=-1, keepdim=True) > 1e-6, q, 0.0)
        nothing = (q == 0).all(-1)
        self.basis[:, 0] = normalise((q + self._random(nothing)).unsqueeze(-1)).squeeze(-1)

    def step(self, active: Tensor) -> None:
        """Add q to Q, for the samples that are ``active``, with one product; others stay put."""
        # A q = Q t + w, with w orthogonal to Q, and t a new row and column of T
        q = self.basis[self.each, self.size] * active.unsqueeze(-1)
        image = multiply(self.A, q.unsqueeze(-1))
        w, coefficients = project_out(image, self.basis.mT)
        self.T[self.each, self.size] = coefficients.squeeze(-1)
        self.T[self.each, :, self.size] = coefficients.squeeze(-1)
        self.norm = torch.maximum(self.norm, image.flatten(1).norm(dim=-1))
        self.size += active
        self.steps += active

        # β = ‖w‖ and q ← w/β, or a random vector if β = 0 and there is room for one
        beta = w.flatten(1).norm(dim=-1)
        # Below this, w is rounding error of the projection: the Krylov space is invariant.
        beta = torch.where(beta > 8 * torch.finfo(beta.dtype).eps * self.norm, beta, 0.0)
        self.beta = torch.where(active, beta, self.beta)
        room = active & (self.size < w.shape[-2])
        w = normalise(w).squeeze(-1) * ((beta > 0) & room).unsqueeze(-1)
        w = w + self._random((beta == 0) & room)
        kept = self.basis[self.each, self.size]
        self.basis[self.each, self.size] = torch.where(active.unsqueeze(-1), w, kept)

    def ritz_values(self, rows: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
        """Ritz values ``(len(rows), k)`` at the ends, descending, and their residual norms."""
        values, vectors = self._ritz(rows, ends)
        last = vectors[torch.arange(len(rows), device=rows.device), self.size[rows] - 1]
        return values, self.beta[rows].unsqueeze(-1) * last.abs()

    def restart(self, rows: Tensor, ends: Ends) -> None:
        """Keep the Ritz vectors at the ends, and q, as the basis of these samples."""
        values, vectors = self._ritz(rows, ends)
        q = self.basis[rows, self.size[rows]]
        kept = vectors.mT @ self.basis[rows, : self.limit]
        count = kept.shape[1]
        self.basis[rows] = 0
        self.basis[rows, :count] = kept
        self.basis[rows, count] = q
        self.T[rows] = 0
        self.T[rows, :count, :count] = torch.diag_embed(values)
        self.size[rows] = count

    def renew(self, rows: Tensor) -> None:
        """Replace q by a random vector orthogonal to Q; the residuals of Q are forgotten."""
        where = torch.zeros_like(self.each, dtype=torch.bool)
        where[rows] = True
        self.basis[rows, self.size[rows]] = 0
        fresh = self._random(where)
        self.basis[rows, self.size[rows]] = fresh[rows]

    def rules_out_mixtures(self, rows: Tensor, found: Tensor, ends: Ends, tol: float) -> Tensor:
        """Whether the next Ritz pairs at the ends are no mixtures with eigenvectors missed, bool.

        A Ritz vector with a residual r has at most r/δ of an eigenvector δ beyond its value, while
        from a random start that is at least MISS of the Ritz vector, but for a probability of MISS.
        """
        high, low = ends
        margin = accepted_residual(found, self.norm[rows], tol, self.A.dtype)
        wider = (high + bool(high), low + bool(low))
        values, residuals = self.ritz_values(rows, wider)
        seen = torch.ones_like(rows, dtype=torch.bool)
        if high:
            beyond = found[:, high - 1] + margin[:, high - 1] - values[:, high]
            seen &= residuals[:, high] <= MISS * beyond
        if low:
            beyond = values[:, -low - 1] - found[:, high] + margin[:, high]
            seen &= residuals[:, -low - 1] <= MISS * beyond
        return seen | (self.beta[rows] == 0)

    def rules_out_others(self, rows: Tensor, found: Tensor, ends: Ends, tol: float) -> Tensor:
        """Whether the steps since :meth:`renew` rule out eigenvalues beyond those found, bool.

        An eigenvector missed would have to be nearly orthogonal to the random start; a component
        is below c with a probability of at most c·√(2n/π).
        """
        (high, low), count = ends, sum(ends)
        margin = accepted_residual(found, self.norm[rows], tol, self.A.dtype)
        points = []
        if high:
            points.append(found[:, high - 1] + margin[:, high - 1])
        if low:
            points.append(found[:, high] - margin[:, high])
        T, size = self.T[rows, count:, count:], self.size[rows] - count
        seen = torch.ones_like(rows, dtype=torch.bool)
        for point in points:
            component = largest_component(T, size, self.beta[rows], point)
            seen &= component <= MISS * (torch.pi / (2 * self.basis.shape[-1])) ** 0.5
        # β = 0: the space is invariant, and holds all that the start has a part in.
        return seen | (self.beta[rows] == 0)

    def _ritz(self, rows: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
        T, size = self.T[rows, : self.limit, : self.limit], self.size[rows, None]
        index = torch.arange(self.limit, device=rows.device)
        values, vectors = padded_eigh(T, index < size)
        high, low = ends
        # Unused directions come first in the ascending order.
        from_above = (self.limit - 1 - index[:high]).expand(len(rows), high)
        from_below = (self.limit - size + index[:low]).flip(-1)
        chosen = torch.cat([from_above, from_below], dim=-1)
        self.norm[rows] = torch.maximum(
            self.norm[rows], torch.where(index >= self.limit - size, values.abs(), 0.0).amax(-1)
        )
        return values.gather(-1, chosen), vectors.gather(
            -1, chosen.unsqueeze(-2).expand(-1, self.limit, -1)
        )

    def _random(self, where: Tensor) -> Tensor:
        """Random unit vectors ``(B, n)`` orthogonal to the basis; 0 outside ``where``."""
        if not where.any():
            return torch.zeros_like(self.basis[:, 0])
        drawn = self.streams.normal(self.basis.shape[-1], 1, like=self.basis, where=where)
        return normalise(project_out(drawn, self.basis.mT)[0]).squeeze(-1)


def largest_component(T: Tensor, size: Tensor, beta: Tensor, eigenvalue: Tensor) -> Tensor:
    """The most that a unit start vector can have of an eigenvector, given its Lanczos recurrence.

    With the orthonormal polynomials p_j of the recurrence, the squared component is at most
    1/Σ p_j(λ)², the Christoffel function (Akhiezer, "The classical moment problem", 1965, §2.5).
    Outside the Ritz values, it decreases with the distance from them.

    Args:
        T: tridiagonal, ``(B, m, m)``, 0 beyond the first ``size`` rows, ``(B,)``.
        beta: ``(B,)``, the next off-diagonal entry.
        eigenvalue: ``(B,)``, λ.
    """
    # (λ − T) p = β p_s e for p = (p_0, …, p_{s−1}) and p_0 = 1, so p is a multiple of (λ − T)⁻¹ e.
    last = torch.nn.functional.one_hot(size - 1, T.shape[-1]).to(T)
    shifted = torch.diag_embed(eigenvalue.unsqueeze(-1).expand(last.shape)) - T
    # By QR: PyTorch's batched LU can be wrong after torch.set_num_threads (seen with 2.13 and MKL).
    Q, R = torch.linalg.qr(shifted)
    p = torch.linalg.solve_triangular(R, Q.mT @ last.unsqueeze(-1), upper=True).squeeze(-1)
    return p[:, 0].abs() / torch.hypot(p.norm(dim=-1), 1 / beta)

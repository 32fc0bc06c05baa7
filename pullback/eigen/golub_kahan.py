"""Golub–Kahan–Lanczos bidiagonalisation of a batch of Jacobians, orthogonalised on the small side.

Golub & Kahan (1965); one-sided reorthogonalisation after Simon & Zha, "Low-rank matrix
approximation using the Lanczos bidiagonalization process" (2000). With a weight M the small side
has the inner product ⟨a, b⟩ = aᵀMb, in which the adjoint of J is JᵀM.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import require_finite
from ..operators import PullbackMetric
from ..probes import SampleStreams
from .records import Spectrum, rounding

StoppingRule = Callable[[Spectrum], Tensor]

PROBES = 8


@dataclass(frozen=True)
class KrylovRun:
    """What a run leaves: eigenvector candidates, the spectrum seen, and what it cost."""

    candidates: Tensor
    spectrum: Spectrum
    steps: Tensor
    finished: Tensor
    n_products: int


def golub_kahan(
    metric: PullbackMetric,
    k: int,
    tol: float,
    streams: SampleStreams,
    enough: StoppingRule | None = None,
    max_steps: int | None = None,
) -> KrylovRun:
    """Bidiagonalise J until the k largest eigenpairs of JᵀMJ are known, sample by sample.

    After s steps, J V = U L with orthonormal V (N×s), U (M×(s+1), in the weight's inner product)
    and L lower bidiagonal. A sample stops when

    - its k leading Ritz pairs have residuals below tol times their gap (gaps count as λ/100 at
      least), and
    - the trace that V leaves out, estimated with eight Gaussian probes, is under λ_k/10: a Krylov
      space finds one vector of a repeated eigenvalue and cannot see that others are missing, and
    - ``enough(spectrum)`` says so, if given,

    or when V or U spans its space. A vanishing vector (the Krylov space is invariant) is replaced
    by a random one. If J has more rows than columns, Jᵀ is bidiagonalised instead, so that U is
    always on the smaller side.

    Args:
        metric: ``(B, N, N)``.
        k: number of eigenpairs.
        tol: relative tolerance of eigenvectors.
        streams: random vectors for the starts and the probes.
        enough: a further condition, ``Spectrum → (B,) bool``.
        max_steps: give up on samples that are not finished by then; ``finished`` tells.

    Raises:
        ValueError: the metric has a weight and J more rows than columns.
    """
    process = _Bidiagonalisation(metric, streams)
    limit = min(metric.jacobian.shape[-2:])
    last = limit if max_steps is None else min(limit, max_steps)
    next_check = min(k + 1, last)
    for step in range(last + 1):
        process.half_step()
        if step == limit:
            process.freeze(torch.ones_like(process.active))
        elif step == next_check:
            process.freeze(_finished(process, k, tol, enough))
            # A check costs an SVD of L: at most an eighth of the steps may turn out superfluous.
            next_check = min(step + max(1, step // 8), last)
        if step == last or not process.active.any():
            break
        process.complete_step()
    candidates, values = process.ritz_vectors(k)
    return KrylovRun(
        candidates=candidates,
        spectrum=process.spectrum(values),
        steps=process.steps,
        finished=~process.active,
        n_products=2 * step + 1 + PROBES + process.starts + k,
    )


def _finished(
    process: "_Bidiagonalisation", k: int, tol: float, enough: StoppingRule | None
) -> Tensor:
    _, values, residuals = process.ritz()
    lead = values[:, :k]
    padded = torch.nn.functional.pad(values, (0, 1))
    below = lead - padded[:, 1 : k + 1]
    above = torch.nn.functional.pad(below[:, :-1], (1, 0), value=torch.inf)
    gap = torch.minimum(below, above).clamp(min=0.01 * lead, max=lead)
    noise = 8 * torch.finfo(process.dtype).eps * lead[:, :1]
    accurate = (residuals[:, :k] <= torch.maximum(tol * gap, noise)).all(1)

    spectrum = process.spectrum(values)
    largest_left_out = spectrum.remainder + 2 * spectrum.remainder_error
    trace = values.sum(1) + spectrum.remainder
    complete = largest_left_out <= torch.maximum(0.1 * lead[:, -1], process.floor**2 * trace)
    finished = accurate & complete
    return finished if enough is None else finished & enough(spectrum)


class _Bidiagonalisation:
    """The state after some steps. Frozen samples have zero vectors and add zeros to L."""

    def __init__(self, metric: PullbackMetric, streams: SampleStreams) -> None:
        self.metric, self.streams, self.dtype = metric, streams, metric.dtype
        rows, columns = metric.jacobian.shape[-2:]
        self.wide = rows <= columns
        if not self.wide and metric.weight is not None:
            raise ValueError(
                "method='golub-kahan' takes a weighted metric only if the Jacobian has no more "
                f"rows than columns, got {rows}×{columns}; use method='dual'"
            )
        self.J = metric.jacobian if self.wide else metric.jacobian.mT
        batch, rows, columns = self.J.shape
        # Relative to σ₁, the length at which a vector is rounding error.
        self.floor = rounding((rows, columns), self.dtype)
        self.scale = torch.zeros(batch, dtype=torch.float64, device=metric.device)
        self.active = torch.ones(batch, dtype=torch.bool, device=metric.device)
        self.steps = torch.zeros(batch, dtype=torch.long, device=metric.device)
        self.starts = 0
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []

        like = torch.empty(0, dtype=self.dtype, device=metric.device)
        self.v = like.new_zeros(batch, columns)
        self.small = _SmallSide(metric, batch, rows)
        self.u = self.small.append(*self._fresh(self.active))
        self.probes = streams.normal(columns, PROBES, like=like)
        self.probe_images = (self.J @ self.probes).double()
        require_finite(self.probe_images, "the map's derivative is NaN or infinite")
        self.weighted_images = self.small.weigh(self.probe_images)
        self.probe_coefficients: list[Tensor] = []

    def half_step(self) -> None:
        """α v = JᵀM u − β v, for the newest u."""
        weighted = self.small.weighted[:, -1].to(self.dtype)
        w = (self.J.mT @ weighted.unsqueeze(-1)).squeeze(-1)
        if self.betas:
            w = w - self.betas[-1].to(self.dtype).unsqueeze(-1) * self.v
        alpha = self._length(w.double().norm(dim=-1))
        self.v = w * _inverse(alpha).to(self.dtype)
        self.alphas.append(alpha)

    def complete_step(self) -> None:
        """β u' = J v − α u, orthogonal to all earlier u."""
        self.probe_coefficients.append((self.v.unsqueeze(-2) @ self.probes).squeeze(-2).double())
        p = (self.J @ self.v.unsqueeze(-1)).squeeze(-1).double()
        p = self.small.orthogonalise(p - self.alphas[-1].unsqueeze(-1) * self.u)
        weighted, norm = self.small.weigh_vector(p)
        beta = self._length(norm)
        self.betas.append(beta)
        p, weighted = p * _inverse(beta), weighted * _inverse(beta)
        broken = (beta == 0) & self.active
        if broken.any():
            fresh, weighted_fresh = self._fresh(broken)
            p, weighted = p + fresh, weighted + weighted_fresh
        self.u = self.small.append(p, weighted)
        self.steps += self.active

    def freeze(self, finished: Tensor) -> None:
        """Stop the samples that are finished; their later entries of L are zero."""
        self.active = self.active & ~finished
        self.v = self.v * self.active.unsqueeze(-1)
        self.alphas[-1] = self.alphas[-1] * self.active

    def bidiagonal(self) -> Tensor:
        """L, ``(B, s+1, s)``."""
        s = len(self.betas)
        L = torch.diag_embed(torch.stack(self.alphas[:s], dim=-1))
        L = torch.nn.functional.pad(L, (0, 0, 0, 1))
        L[:, 1:] += torch.diag_embed(torch.stack(self.betas, dim=-1))
        return L

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Left singular vectors of L, Ritz values σ², and residual norms of the Ritz pairs."""
        left, sigma, _ = torch.linalg.svd(self.bidiagonal(), full_matrices=False)
        residuals = sigma * self.alphas[-1].unsqueeze(-1) * left[:, -1].abs()
        return left, sigma.square(), residuals

    def ritz_vectors(self, k: int) -> tuple[Tensor, Tensor]:
        """Eigenvector candidates JᵀM u ``(B, N, k)``, and all Ritz values."""
        left, values, _ = self.ritz()
        left = torch.nn.functional.pad(left[..., :k], (0, max(0, k - left.shape[-1])))
        u = self.small.basis.mT @ left
        if not self.wide:
            return u.to(self.dtype), values
        return self.J.mT @ self.small.weigh(u).to(self.dtype), values

    def spectrum(self, values: Tensor) -> Spectrum:
        """The Ritz values, and the trace R that V leaves out: the mean of ‖J(I − VVᵀ)z‖² over z.

        Its variance is 2‖·‖²_F per probe, at most 2R², which is reached when one direction is left.
        The bound is used: the scatter of eight probes is too uncertain to tell.
        """
        c = torch.stack(self.probe_coefficients, dim=-2)
        inside = self.bidiagonal() @ c
        left_out = self.probe_images - self.small.basis.mT @ inside
        weighted = self.weighted_images - self.small.weighted.mT @ inside
        remainder = (left_out * weighted).sum(-2).clamp(min=0).mean(-1)
        return Spectrum(
            values=values,
            remainder=remainder,
            remainder_error=(2 / PROBES) ** 0.5 * remainder,
            unresolved=(min(self.J.shape[-2:]) - self.steps).clamp(min=0).double(),
        )

    def _length(self, norm: Tensor) -> Tensor:
        """The norm, or 0 where it is rounding error."""
        self.scale = torch.maximum(self.scale, norm)
        return torch.where(norm > self.floor * self.scale, norm, 0.0) * self.active

    def _fresh(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Random unit vectors of J's range orthogonal to all u, and M times them.

        For the samples ``where``; 0 for the others, and where the u span the range already.
        """
        self.starts += 1
        drawn = self.streams.normal(self.J.shape[-1], 1, like=self.v, where=where)
        image = (self.J @ drawn).squeeze(-1).double()
        p = self.small.orthogonalise(image)
        weighted, norm = self.small.weigh_vector(p)
        length = torch.where(norm > self.floor * self.small.weigh_vector(image)[1], norm, 0.0)
        return p * _inverse(length), weighted * _inverse(length)


class _SmallSide:
    """An orthonormal basis in the weight's inner product, in float64, one vector a row."""

    def __init__(self, metric: PullbackMetric, batch: int, size: int) -> None:
        self.weight, self.dtype = metric.weight, metric.dtype
        self.basis = torch.empty(batch, 0, size, dtype=torch.float64, device=metric.device)
        self.weighted = self.basis

    def weigh(self, columns: Tensor) -> Tensor:
        """M times columns ``(B, M, C)``."""
        if self.weight is None:
            return columns
        return (self.weight @ columns.to(self.dtype)).double()

    def weigh_vector(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """M p for p ``(B, M)``, and √(pᵀMp)."""
        weighted = self.weigh(p.unsqueeze(-1)).squeeze(-1)
        return weighted, (p * weighted).sum(-1).clamp(min=0).sqrt()

    def orthogonalise(self, p: Tensor) -> Tensor:
        """Take the basis out of p ``(B, M)``; twice is enough (Parlett 1980, §6.9)."""
        for _ in range(2):
            coefficients = self.weighted @ p.unsqueeze(-1)
            p = p - (self.basis.mT @ coefficients).squeeze(-1)
        return p

    def append(self, u: Tensor, weighted: Tensor) -> Tensor:
        """Add a vector and M times it; returns the vector."""
        self.basis = torch.cat([self.basis, u.unsqueeze(1)], dim=1)
        if self.weight is None:
            self.weighted = self.basis
        else:
            self.weighted = torch.cat([self.weighted, weighted.unsqueeze(1)], dim=1)
        return u


def _inverse(length: Tensor) -> Tensor:
    """1/length ``(B, 1)``, or 0 where the length is 0."""
    return torch.where(length > 0, 1 / length, 0.0).unsqueeze(-1)

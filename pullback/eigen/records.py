"""What every eigensolver returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .dense import first_columns
from .errors import error_bounds

# Gaussian vectors that estimate the trace of what a method leaves out.
PROBES = 6
# An eigenvalue λ left out would show as a remainder under UNSEEN·λ with probability 1e-3 only
# (a quantile of χ² with six degrees of freedom).
UNSEEN = 0.381 / PROBES
# So many times fewer, or more, eigenvalues than estimated may share a remainder.
PARTS_FACTOR = 2.0


@dataclass(frozen=True)
class EigenPairs:
    """The k largest eigenpairs of a symmetric positive semi-definite operator.

    Attributes:
        values: ``(*batch, k)``, descending; exactly 0 beyond the numerical rank.
        vectors: ``(*batch, N, k)``, orthonormal columns; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖Gv − λv‖₂, from explicit products, or from those of the
            solver and one more, which shows that they are right.
        converged: ``(*batch, k)`` bool, whether the residual is at most
            max(tol·λ, 32·eps·λ₁).
        n_products: products with J or Jᵀ that a sample took, each column counted; the most of
            any sample of the batch.
        iterations: ``(*batch,)``, Krylov steps taken for each sample; 0 for direct methods.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    converged: Tensor
    n_products: int
    iterations: Tensor

    @property
    def errors(self) -> Tensor:
        """Bounds ``(*batch, k)`` on the errors of the values, but for rounding.

        Within ``errors[i]`` of ``values[i]`` there is an eigenvalue of the operator, and a
        different one for each i. If none of the k largest was overlooked, which ``converged`` makes
        likely but cannot prove, it is the i-th: |λᵢ − value| ≤ error. The bound is the norm of the
        residual, or, of values that are closer to each other than this tells apart, of all their
        residuals together (Weyl; Parlett 1980, §11.5). It is often far from reached: with a gap δ
        to the other eigenvalues the error is about ‖r‖²/δ, which nothing here proves.

        Products are rounded, to about 32·eps·λ₁ together, which is not part of it: a value that is
        0 because it is beyond the numerical rank has error 0.
        """
        return error_bounds(self.values, self.residual_norms, self.converged)


@dataclass(frozen=True)
class SingularTriplets:
    """The k largest singular triplets J v = σ u of a linear operator.

    Attributes:
        left: ``(*batch, M, k)``, orthonormal u.
        values: ``(*batch, k)``, σ, descending; exactly 0 beyond the numerical rank.
        right: ``(*batch, N, k)``, orthonormal v; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖Jᵀu − σv‖₂, from explicit products; J v − σu is 0.
        converged: ``(*batch, k)`` bool, whether the residual is at most max(tol·σ, 32·eps·σ₁), or
            rounding error where σ is 0.
        n_products, iterations: see :class:`EigenPairs`.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    residual_norms: Tensor
    converged: Tensor
    n_products: int
    iterations: Tensor

    @property
    def errors(self) -> Tensor:
        """Bounds ``(*batch, k)`` on |σ − value|, but for rounding; see :attr:`EigenPairs.errors`.

        They hold for singular values what those hold for eigenvalues, with residuals Jᵀu − σv.
        """
        return error_bounds(self.values, self.residual_norms, self.converged)


@dataclass(frozen=True)
class Spectrum:
    """All that a solver learns of a batch of spectra, on the host.

    Attributes:
        values: ``(B, r)`` float64, Ritz values, descending, padded with zeros.
        remainder: ``(B,)`` float64, trace of what the Ritz values leave out.
        remainder_error: ``(B,)`` float64, its standard error.
        least_parts: ``(B,)``, m, about how many eigenvalues share the remainder at least.
        most_parts: ``(B,)``, r, how many do at most.
    """

    values: Tensor
    remainder: Tensor
    remainder_error: Tensor
    least_parts: Tensor
    most_parts: Tensor

    @classmethod
    def from_probes(cls, values: Tensor, products: Tensor, most_parts: Tensor) -> "Spectrum":
        """From ``products`` zᵢᵀ G' zⱼ, ``(B, PROBES, PROBES)``, of probes z with the rest G'.

        The mean R of the diagonal is an unbiased estimate of tr G'. The squares beside it have the
        mean ‖G'‖²_F, so R²/‖G'‖²_F, the number of equal eigenvalues that would do the same, is
        known from the same products; half of it is taken, as both are uncertain. Then R is
        distributed like χ² with ν = m·PROBES degrees of freedom, and too small by chance more often
        than too large: two standard errors reach up to where the mean is with probability 0.975
        (the quantile after Wilson & Hilferty, "The distribution of chi-square", 1931).
        """
        values, products, most_parts = values.cpu(), products.cpu(), most_parts.cpu()
        squares = products.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        remainder = squares.mean(-1)
        beside = products.square().sum((-2, -1)) - squares.square().sum(-1)
        norm_squared = beside.clamp(min=0) / (PROBES * (PROBES - 1))
        parts = remainder.square() / PARTS_FACTOR / torch.where(norm_squared > 0, norm_squared, 1.0)
        parts = torch.minimum(parts, most_parts).clamp(min=1)
        variance = 2 / (PROBES * parts)  # of R over its mean
        quantile = (1 - variance / 9 - 1.96 * variance.sqrt() / 3) ** 3
        return cls(values, remainder, (1 / quantile - 1) / 2 * remainder, parts, most_parts)

    def contains_leading(self, k: int, noise: float) -> Tensor:
        """Whether no eigenvalue as large as the k-th value can be left out, ``(B,)`` bool.

        True where the remainder is rounding error, under ``noise`` times the trace, too.
        """
        trace = self.values.sum(-1) + self.remainder
        last = self.values[:, k - 1] if self.values.shape[-1] >= k else torch.zeros_like(trace)
        return self.remainder <= torch.maximum(UNSEEN * last, noise * trace)


@dataclass(frozen=True)
class Candidates:
    """Approximate eigenvectors.

    Attributes:
        vectors: ``(B, N, k)``, of any length, leading ones first.
        images: ``(B, M, k)`` float64, J times them, if known to rounding.
        outside, coupling: F ``(B, N, b)`` orthonormal, and c ``(B, b, k)`` float64, if known to
            rounding: JᵀM times the images is the vectors, times their eigenvalues, and F c.
    """

    vectors: Tensor
    images: Tensor | None = None
    outside: Tensor | None = None
    coupling: Tensor | None = None


@dataclass(frozen=True)
class SolverResult:
    """What a solver leaves, before its eigenpairs are certified.

    Attributes:
        candidates: k approximate eigenvectors.
        iterations: ``(B,)``, see :class:`EigenPairs`.
        n_products: products with J or Jᵀ, or with an operator that is no pullback metric, columns
            counted; the most of any sample.
        finished: ``(B,)`` bool, whether the solver's own stopping rule was met, without which
            nothing counts as converged; None if it has none that the residuals do not tell.
        small_side: ``(B, m, r)`` float64, left singular vectors (on the smaller side of J), each
            as long as its singular value, if more than k are known: what warm starts learn from.
        spectrum: the whole spectrum, as far as it was seen, if more is known than k values.
        norm: ``(B,)``, the largest Ritz value in modulus that was met, unless that is the first
            candidate's.
    """

    candidates: Candidates
    iterations: Tensor
    n_products: int
    finished: Tensor | None = None
    small_side: Tensor | None = None
    spectrum: Spectrum | None = None
    norm: Tensor | None = None


Record = TypeVar("Record", EigenPairs, Spectrum, SolverResult, Tensor)


def select_samples(record: Record, samples: Tensor) -> Record:
    """The record, or the tensor, of some samples (indices)."""
    return _map_tensors(lambda fields: fields[0][samples.to(fields[0].device)], [record])


def merge_samples(parts: list[tuple[Tensor, Record]]) -> Record:
    """One record from those of disjoint samples (indices), which together are 0 … B − 1."""
    records = [record for _, record in parts]
    if len(records) == 1:
        return records[0]
    order = torch.cat([samples for samples, _ in parts]).argsort()

    def merge(fields: list[Tensor]) -> Tensor:
        there = order.to(fields[0].device)
        if fields[0].ndim > 2:  # columns, of which each lies together
            return torch.cat([tensor.mT for tensor in _pad_columns(fields)])[there].mT
        return torch.cat(_pad_columns(fields))[there]

    return _map_tensors(merge, records)


def _map_tensors(change: Callable[[list[Tensor]], Tensor], fields: list[Any]) -> Any:
    """A record whose tensors are made from those of others; of numbers the largest is taken."""
    first = fields[0]
    if isinstance(first, Tensor):
        return change(fields)
    if first is None or isinstance(first, int):
        return None if first is None else max(fields)
    names = vars(first)
    changed = {n: _map_tensors(change, [getattr(field, n) for field in fields]) for n in names}
    return type(first)(**changed)


def _pad_columns(tensors: list[Tensor]) -> list[Tensor]:
    """Zeros behind: more values are known of samples that took more steps."""
    if tensors[0].ndim == 1:
        return tensors
    width = max(tensor.shape[-1] for tensor in tensors)
    return [t if t.shape[-1] == width else first_columns(t, width) for t in tensors]

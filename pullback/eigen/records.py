"""What every eigensolver returns."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

# Gaussian vectors that estimate the trace of what a method leaves out.
PROBES = 6
# An eigenvalue λ left out would show as a remainder under UNSEEN·λ with probability 1e-3 only
# (a quantile of χ² with six degrees of freedom).
UNSEEN = 0.381 / PROBES


class ConvergenceWarning(UserWarning):
    """Eigenpairs are less accurate than was asked for."""


class RankWarning(UserWarning):
    """More eigenpairs were asked for than the metric has above rounding error."""


@dataclass(frozen=True)
class EigenPairs:
    """The k largest eigenpairs of a symmetric positive semi-definite operator.

    Attributes:
        values: ``(*batch, k)``, descending; exactly 0 beyond the numerical rank.
        vectors: ``(*batch, N, k)``, orthonormal columns; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖Gv − λv‖₂, from explicit products, or from those of the
            run and one more, which shows that they are right (:mod:`pullback.eigen.rayleigh_ritz`).
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


@dataclass(frozen=True)
class Spectrum:
    """All that one run learns of a batch of spectra.

    Attributes:
        values: ``(B, r)`` float64, Ritz values, descending, padded with zeros.
        remainder: ``(B,)`` float64, trace of what the Ritz values leave out.
        remainder_error: ``(B,)`` float64, its standard error.
        shared: ``(B,)``, m, about how many eigenvalues share the remainder at least.
        unresolved: ``(B,)``, r, how many do at most.
    """

    values: Tensor
    remainder: Tensor
    remainder_error: Tensor
    shared: Tensor
    unresolved: Tensor

    @classmethod
    def probed(cls, values: Tensor, products: Tensor, unresolved: Tensor) -> "Spectrum":
        """From what the probes z leave out: ``(B, PROBES, PROBES)``, zᵢᵀ G' zⱼ of the rest G'.

        The mean R of the diagonal is an unbiased estimate of tr G'. The squares beside it have the
        mean ‖G'‖²_F, so R²/‖G'‖²_F, the number of equal eigenvalues that would do the same, is
        known from the same products; half of it is taken, as both are uncertain. Then R is
        distributed like χ² with ν = m·PROBES degrees of freedom, and too small by chance more often
        than too large: two standard errors reach up to where the mean is with probability 0.975
        (the quantile after Wilson & Hilferty, "The distribution of chi-square", 1931).
        """
        squares = products.diagonal(dim1=-2, dim2=-1).clamp(min=0)
        remainder = squares.mean(-1)
        beside = products.square().sum((-2, -1)) - squares.square().sum(-1)
        norm_squared = beside.clamp(min=0) / (PROBES * (PROBES - 1))
        shared = 0.5 * remainder.square() / torch.where(norm_squared > 0, norm_squared, 1.0)
        shared = torch.minimum(shared, unresolved).clamp(min=1)
        variance = 2 / (PROBES * shared)  # of R over its mean
        quantile = (1 - variance / 9 - 1.96 * variance.sqrt() / 3) ** 3
        return cls(values, remainder, (1 / quantile - 1) / 2 * remainder, shared, unresolved)

    def select(self, samples: Tensor) -> "Spectrum":
        """Those of some samples (indices)."""
        return Spectrum(**{name: tensor[samples] for name, tensor in vars(self).items()})

    def hides_nothing(self, k: int, floor: float) -> Tensor:
        """Whether no eigenvalue as large as the k-th value can be left out, ``(B,)`` bool.

        True where the remainder is rounding error, under ``floor`` times the trace, too.
        """
        trace = self.values.sum(-1) + self.remainder
        last = self.values[:, k - 1] if self.values.shape[-1] >= k else torch.zeros_like(trace)
        return self.remainder <= torch.maximum(UNSEEN * last, floor * trace)


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
class Run:
    """What a method leaves, before its eigenpairs are certified.

    Attributes:
        candidates: k approximate eigenvectors.
        small_side: ``(B, m, r)`` float64, left singular vectors (on the smaller side of J), each
            as long as its singular value, if more than k are known: what warm starts learn from.
        spectrum: the whole spectrum, as far as it was seen, if more is known than k values.
        iterations: ``(B,)``, see :class:`EigenPairs`.
        finished: ``(B,)`` bool, whether the method's own stopping rule was met.
        n_products: products with J or Jᵀ, columns counted.
    """

    candidates: Candidates
    small_side: Tensor | None
    spectrum: Spectrum | None
    iterations: Tensor
    finished: Tensor
    n_products: int


def gathered(parts: list[tuple[Tensor, Run]]) -> Run:
    """One run from those of disjoint samples (indices), which together are 0 … B − 1."""
    runs = [run for _, run in parts]
    if len(runs) == 1:
        return runs[0]
    order = torch.cat([samples for samples, _ in parts]).argsort()

    def joined(tensors: list[Any]) -> Any:
        if tensors[0] is None:
            return None
        if tensors[0].ndim > 1:  # more values are known of samples that took more steps
            tensors = _equally_wide(tensors)
        if tensors[0].ndim > 2:  # columns, of which each lies together
            return torch.cat([tensor.mT for tensor in tensors])[order].mT
        return torch.cat(tensors)[order]

    def fields(records: list[Any]) -> dict[str, Any]:
        return {name: joined([getattr(r, name) for r in records]) for name in vars(records[0])}

    return Run(
        candidates=Candidates(**fields([run.candidates for run in runs])),
        spectrum=Spectrum(**fields([run.spectrum for run in runs])),
        small_side=joined([run.small_side for run in runs]),
        iterations=joined([run.iterations for run in runs]),
        finished=joined([run.finished for run in runs]),
        n_products=max(run.n_products for run in runs),
    )


Record = TypeVar("Record", EigenPairs, Spectrum)


def replaced(record: Record, where: Tensor, other: Record) -> Record:
    """A copy with the samples at ``where`` (indices) taken from a record of those samples alone.

    Products and iterations add up.
    """
    columns: dict[str, Any] = {}
    for name, own in vars(record).items():
        new = getattr(other, name)
        if name == "n_products":
            columns[name] = own + new
            continue
        if name == "iterations":
            columns[name] = own.index_add(0, where, new)
            continue
        if name == "values":  # spectra may differ in length
            own, new = _equally_wide([own, new])
        columns[name] = own.index_copy(0, where, new)
    return type(record)(**columns)


def _equally_wide(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors with zeros behind, where others have more columns."""
    width = max(tensor.shape[-1] for tensor in tensors)
    missing = [width - tensor.shape[-1] for tensor in tensors]
    pad = torch.nn.functional.pad
    return [pad(t, (0, n)) if n else t for t, n in zip(tensors, missing, strict=True)]


def rounding(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """σ/σ₁ under which a singular value is rounding error, for products of this shape and dtype.

    Errors of products of n terms add up like √n·eps; the factor 4 leaves a margin.
    """
    return 4 * max(shape) ** 0.5 * torch.finfo(dtype).eps


def zero_below(shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> float:
    """λ/λ₁ under which an eigenvalue is 0: that of the products, or of a float64 Gram matrix."""
    gram = 4 * min(shape) * torch.finfo(torch.float64).eps
    return max(rounding(shape, dtype) ** 2, gram)

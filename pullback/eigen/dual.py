"""The exact spectrum from the small side: M VJPs give every row of J, and JJᵀ its eigenvalues."""

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..products import MAX_BLOCK
from .records import Candidates, Run, Spectrum


def dual(metric: PullbackMetric, k: int) -> Run:
    """Eigenvectors and all non-zero eigenvalues of Jᵀ M J, exactly.

    JJᵀ (M×M) has the same non-zero eigenvalues as JᵀJ (N×N), and v = Jᵀu/√λ turns its
    eigenvectors into those of JᵀJ; with a weight, M^½ JJᵀ M^½ and v = JᵀM^½u/√λ. If J has more
    rows than columns, its columns are taken instead. Gram matrices are formed and diagonalised in
    float64, a few samples at a time.

    Args:
        metric: ``(B, N, N)``.
        k: number of eigenvectors.

    Returns:
        :class:`~pullback.eigen.records.Run`, with the complete spectrum; candidates are zero
        beyond the rank of J's shape.
    """
    rows, columns = metric.jacobian.shape[-2:]
    solve_group = _from_rows if rows <= columns else _from_columns
    size = max(1, MAX_BLOCK // (rows * columns))
    groups = [
        solve_group(metric[start : start + size], k, start)
        for start in range(0, metric.shape[0], size)
    ]
    values, candidates, small_side = (torch.cat(parts) for parts in zip(*groups, strict=True))
    none = values.new_zeros(len(values))
    return Run(
        candidates=Candidates(torch.nn.functional.pad(candidates, (0, k - candidates.shape[-1]))),
        small_side=small_side,
        spectrum=Spectrum(values.clamp(min=0), none, none, none + 1, none),
        iterations=torch.zeros_like(none, dtype=torch.long),
        finished=torch.ones_like(none, dtype=torch.bool),
        n_products=min(rows, columns),
    )


def _from_rows(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    J = metric.jacobian.to_dense()
    require_finite(J, "the map's derivative is NaN or infinite", start)
    root = None if metric.weight is None else _square_root(metric.weight.to_dense().double())
    if root is not None:
        J = (root @ J.double()).to(J.dtype)
    values, u = _descending_eigh(_gram(J))
    lengths = values.clamp(min=0).sqrt().unsqueeze(-2)
    return values, J.mT @ u[..., :k].to(J.dtype), u * lengths


def _from_columns(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    G = metric.to_dense().double()
    require_finite(G, "the map's derivative is NaN or infinite", start)
    values, v = _descending_eigh(G)
    lengths = values.clamp(min=0).sqrt().unsqueeze(-2)
    return values, v[..., :k].to(metric.dtype), v * lengths


def _gram(J: Tensor) -> Tensor:
    J = J.double()
    return J @ J.mT


def _square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2) @ vectors.mT


def _descending_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values.flip(-1), vectors.flip(-1)

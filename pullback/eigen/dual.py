"""The exact spectrum from the small side: M VJPs give every row of J, and JJᵀ its eigenvalues."""

import torch
from torch import Tensor

from ..checks import require_finite
from ..operators import PullbackMetric
from ..products import MAX_BLOCK
from .records import Spectrum


def dual(metric: PullbackMetric, k: int) -> tuple[Tensor, Spectrum, int]:
    """Eigenvectors and all non-zero eigenvalues of Jᵀ M J, exactly.

    JJᵀ (M×M) has the same non-zero eigenvalues as JᵀJ (N×N), and v = Jᵀu/√λ turns its
    eigenvectors into those of JᵀJ; with a weight, M^½ JJᵀ M^½ and v = JᵀM^½u/√λ. If J has more
    rows than columns, its columns are taken instead. Gram matrices are formed and diagonalised in
    float64, a few samples at a time.

    Args:
        metric: ``(B, N, N)``.
        k: number of eigenvectors.

    Returns:
        candidates ``(B, N, k)`` (zero beyond the rank of J's shape), the complete spectrum, and
        the number of products.
    """
    rows, columns = metric.jacobian.shape[-2:]
    solve_group = _from_rows if rows <= columns else _from_columns
    size = max(1, MAX_BLOCK // (rows * columns))
    groups = [
        solve_group(metric[start : start + size], k, start)
        for start in range(0, metric.shape[0], size)
    ]
    values = torch.cat([values for values, _ in groups]).clamp(min=0)
    candidates = torch.cat([vectors for _, vectors in groups])
    padding = candidates.new_zeros(*candidates.shape[:-1], k - candidates.shape[-1])
    none = values.new_zeros(len(values))
    spectrum = Spectrum(values, none, none, none)
    return torch.cat([candidates, padding], dim=-1), spectrum, min(rows, columns)


def _from_rows(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor]:
    J = metric.jacobian.to_dense()
    require_finite(J, "the map's derivative is NaN or infinite", start)
    root = None if metric.weight is None else _square_root(metric.weight.to_dense().double())
    if root is not None:
        J = (root @ J.double()).to(J.dtype)
    values, u = _descending_eigh(_gram(J))
    return values, J.mT @ u[..., :k].to(J.dtype)


def _from_columns(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor]:
    G = metric.to_dense().double()
    require_finite(G, "the map's derivative is NaN or infinite", start)
    values, v = _descending_eigh(G)
    return values, v[..., :k].to(metric.dtype)


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

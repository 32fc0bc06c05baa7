"""Rayleigh–Ritz: the best eigenpairs within a given subspace, and how good they are."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_finite
from ..operators import PullbackMetric
from .records import Candidates, zero_below

# Entries of VᵀV − I under which V counts as nearly orthonormal.
NEARLY = 0.05
_NOT_FINITE = "the map's derivative is NaN or infinite"


class Ritz(NamedTuple):
    """Eigenpairs within a subspace.

    Attributes:
        values: ``(B, k)``, descending, 0 where rounding hides them.
        vectors: ``(B, N, k)``, orthonormal.
        residual_norms: ``(B, k)``.
        images: ``(B, M, k)`` float64, J times the vectors.
        n_products: products with J or Jᵀ.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    images: Tensor
    n_products: int


def rayleigh_ritz(metric: PullbackMetric, candidates: Candidates) -> Ritz:
    """Eigenpairs of the metric restricted to the span of the candidates.

    The residuals are from explicit products with JᵀM. Those with J are saved where they are known
    and the candidates nearly orthonormal.

    Args:
        metric: ``(B, N, N)``.
        candidates: where they are dependent or zero, the subspace is completed.

    Raises:
        ValueError: a product, or an eigenvalue, is out of range.
    """
    V, images = candidates.vectors, candidates.images
    n_products = V.shape[-1]
    gram = (V.mT @ V).double()
    eye = torch.eye(n_products, dtype=gram.dtype, device=gram.device)
    if images is not None and bool(((gram - eye).abs() < NEARLY).all()):
        upper = torch.linalg.cholesky(gram).mT
        orthonormal = torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True)
    else:
        norms = V.norm(dim=-2, keepdim=True)
        V = torch.linalg.qr(V / torch.where(norms > 0, norms, 1.0))[0]
        images = metric.jacobian._matmul(V).double()
        orthonormal = eye
        n_products *= 2
    images = images @ orthonormal
    weighted = metric.weighted(images.to(V.dtype)).double()
    require_finite(weighted, _NOT_FINITE)
    projected = images.mT @ weighted
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    values, rotation = values.flip(-1), rotation.flip(-1)
    _check_range(values, V.dtype)

    # By rows, as products come.
    vectors = ((orthonormal @ rotation).mT.to(V.dtype) @ V.mT).mT
    sign = sign_of(vectors)
    vectors *= sign
    rotation *= sign.double()
    values = _without_noise(values, metric)
    residuals = metric.jacobian._t_matmul((weighted @ rotation).to(V.dtype))
    require_finite(residuals, _NOT_FINITE)
    residuals.addcmul_(vectors, values.unsqueeze(-2).to(V.dtype), value=-1)
    return Ritz(
        values=values.to(V.dtype),
        vectors=vectors,
        residual_norms=residuals.norm(dim=-2),
        images=images @ rotation,
        n_products=n_products,
    )


def _check_range(values: Tensor, dtype: torch.dtype) -> None:
    if values.max() > torch.finfo(dtype).max:
        raise ValueError(
            f"eigenvalues up to {values.max().item():.1e} exceed the range of {dtype}; "
            "use float64 inputs, or scale the map's outputs down"
        )


def _without_noise(values: Tensor, metric: PullbackMetric) -> Tensor:
    floor = zero_below(metric.jacobian.shape[-2:], metric.dtype) * values[..., :1]
    return torch.where(values > floor, values, torch.zeros_like(values))


def sign_of(vectors: Tensor) -> Tensor:
    """Of each column's entry of largest modulus: a vector times its sign is the same in any run."""
    least, most = vectors.aminmax(dim=-2, keepdim=True)
    return torch.where(most >= -least, 1.0, -1.0).to(vectors)

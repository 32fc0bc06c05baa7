"""Rayleigh–Ritz: the best eigenpairs within a given subspace, and how good they are."""

import torch
from torch import Tensor

from ..checks import require_finite
from ..operators import PullbackMetric
from .records import zero_below


def rayleigh_ritz(metric: PullbackMetric, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenpairs of the metric restricted to the span of the candidates.

    Args:
        metric: ``(B, N, N)``.
        candidates: ``(B, N, k)``, approximate eigenvectors of any length, leading ones first;
            where they are dependent or zero, the subspace is completed.

    Returns:
        values ``(B, k)``, descending, 0 where rounding hides them; orthonormal vectors
        ``(B, N, k)``; residual norms ``(B, k)``. Costs k products with J and k with Jᵀ.
    """
    norms = candidates.norm(dim=-2, keepdim=True)
    unit = candidates / norms.clamp(min=torch.finfo(candidates.dtype).tiny)
    basis = torch.linalg.qr(unit)[0]
    images = metric.jacobian @ basis
    weighted = images if metric.weight is None else metric.weight @ images
    require_finite(weighted, "the map's derivative is NaN or infinite")
    projected = images.double().mT @ weighted.double()
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    values, rotation = values.flip(-1), rotation.flip(-1)

    if values.max() > torch.finfo(basis.dtype).max:
        raise ValueError(
            f"eigenvalues up to {values.max().item():.1e} exceed the range of {basis.dtype}; "
            "use float64 inputs, or scale the map's outputs down"
        )

    vectors = (basis.double() @ rotation).to(basis.dtype)
    values = _without_noise(values, metric)
    products = metric.jacobian.mT @ (weighted.double() @ rotation).to(basis.dtype)
    require_finite(products, "the map's derivative is NaN or infinite")
    residual_norms = (products.double() - vectors * values.unsqueeze(-2)).norm(dim=-2)
    return values.to(basis.dtype), _with_sign(vectors), residual_norms.to(basis.dtype)


def _without_noise(values: Tensor, metric: PullbackMetric) -> Tensor:
    floor = zero_below(metric.jacobian.shape[-2:], metric.dtype) * values[..., :1]
    return torch.where(values > floor, values, torch.zeros_like(values))


def _with_sign(vectors: Tensor) -> Tensor:
    """Make the entry of largest modulus positive, so that a vector does not depend on the run."""
    largest = vectors.abs().argmax(dim=-2, keepdim=True)
    return vectors * vectors.gather(-2, largest).sign()

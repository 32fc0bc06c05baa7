"""Rayleigh–Ritz: the best eigenpairs within a given subspace, and how good they are.

Residuals come from explicit products, one for each pair. A Krylov run knows its residuals already,
but for rounding errors: one product, with all pairs added up, shows whether that is so (Freivalds,
"Probabilistic machines can use less running time", 1977).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .records import Candidates, zero_below

# Entries of VᵀV − I under which V counts as nearly orthonormal.
NEARLY = 0.01
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


def rayleigh_ritz(metric: PullbackMetric, candidates: Candidates, streams: SampleStreams) -> Ritz:
    """Eigenpairs of the metric restricted to the span of the candidates.

    Products are saved if the candidates are nearly orthonormal: those with J where their images are
    known, those with JᵀM but one where it is known what these have outside.

    Args:
        metric: ``(B, N, N)``.
        candidates: where they are dependent or zero, the subspace is completed.
        streams: random signs.

    Raises:
        ValueError: a product, or an eigenvalue, is out of range.
    """
    V, images, k = candidates.vectors, candidates.images, candidates.vectors.shape[-1]
    n_products = 0
    gram = (V.mT @ V).double()
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    if images is not None and bool(((gram - eye).abs() < NEARLY).all()):
        upper = torch.linalg.cholesky(gram).mT
        mixing = torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True)
    else:
        lengths = V.norm(dim=-2, keepdim=True)
        V = torch.linalg.qr(V / torch.where(lengths > 0, lengths, 1.0))[0]
        images, mixing = metric.jacobian._matmul(V).double(), eye
        candidates, n_products = Candidates(V, images), k
    weighted = metric.weighted(images.to(V.dtype)).double()
    require_finite(weighted, _NOT_FINITE)
    projected = mixing.mT @ images.mT @ weighted @ mixing
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    values, rotation = values.flip(-1), rotation.flip(-1)
    _check_range(values, V.dtype)

    # By rows, as products come.
    mixing = mixing @ rotation
    vectors = (mixing.mT.to(V.dtype) @ V.mT).mT
    sign = sign_of(vectors)
    vectors *= sign
    mixing = mixing * sign.double()
    values = _without_noise(values, metric)
    norms, taken = _known_residual_norms(metric, candidates, weighted, mixing, values, streams)
    n_products += taken
    unknown = norms.isnan()
    if unknown.any():
        residuals = _pulled(metric, weighted @ mixing)
        residuals.addcmul_(vectors, values.unsqueeze(-2).to(V.dtype), value=-1)
        norms = torch.where(unknown, residuals.norm(dim=-2), norms)
        n_products += k
    return Ritz(
        values=values.to(V.dtype),
        vectors=vectors,
        residual_norms=norms.to(V.dtype),
        images=images @ mixing,
        n_products=n_products,
    )


def _known_residual_norms(
    metric: PullbackMetric,
    candidates: Candidates,
    weighted: Tensor,
    mixing: Tensor,
    values: Tensor,
    streams: SampleStreams,
) -> tuple[Tensor, int]:
    """Norms ``(B, k)`` of what JᵀM J V Q − V Q Λ has along V and F, and of the rounding besides.

    Args:
        candidates: V, and what is known of it.
        weighted: MJV.
        mixing, values: Q ``(B, k, k)`` and Λ ``(B, k)``.

    Returns:
        the norms, NaN where they are not known or not what a product finds; and products taken.
    """
    V, F = candidates.vectors, candidates.outside
    if F is None or candidates.images is None or candidates.coupling is None:
        return torch.full_like(values, torch.nan), 0
    squares = (candidates.images * weighted).sum(-2)  # V are Ritz vectors: λ before any mixing
    along_V, along_F = squares.unsqueeze(-1) * mixing, candidates.coupling @ mixing
    signs = streams.normal(values.shape[-1], 1, like=values).sign()
    together = _pulled(metric, weighted @ mixing @ signs)
    together -= V @ (along_V @ signs).to(V.dtype)
    together -= F @ (along_F @ signs).to(V.dtype)
    rounding = together.norm(dim=-2).double()
    # Rounding errors are in proportion to the eigenvalues.
    length = values.norm(dim=-1, keepdim=True)
    share = rounding * values / torch.where(length > 0, length, 1.0)
    share[(rounding > 32 * torch.finfo(V.dtype).eps * values[:, :1]).squeeze(-1)] = torch.nan
    along_V = along_V - mixing * values.unsqueeze(-2)
    return torch.cat([along_V, along_F, share.unsqueeze(-2)], dim=-2).norm(dim=-2), 1


def _pulled(metric: PullbackMetric, weighted: Tensor) -> Tensor:
    """Jᵀ times columns ``(B, M, C)``."""
    product = metric.jacobian._t_matmul(weighted.to(metric.dtype))
    require_finite(product, _NOT_FINITE)
    return product


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
    # Not aminmax, which is many times slower along this dimension.
    least, most = vectors.amin(dim=-2, keepdim=True), vectors.amax(dim=-2, keepdim=True)
    return torch.where(most >= -least, 1.0, -1.0).to(vectors)

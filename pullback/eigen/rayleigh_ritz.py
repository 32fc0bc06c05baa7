"""Rayleigh–Ritz: the best eigenpairs within a given subspace, and how good they are.

Residuals come from explicit products, one for each pair. A Krylov method knows its residuals
already, but for rounding errors: one product, with all pairs added up, shows whether that is so
(Freivalds, "Probabilistic machines can use less running time", 1977).

An operator A that is no pullback metric is taken for JᵀMJ with J = I and M = A. What is as small as
k×k is computed on the host, which waits for a GPU twice: for the products, and for their residuals.
"""

from typing import NamedTuple

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .dense import descending_eigh, normalise, signs
from .records import Candidates
from .small_side import DERIVATIVE, PRODUCT

# Entries of VᵀV − I under which V counts as nearly orthonormal.
NEARLY = 0.01


class RitzPairs(NamedTuple):
    """Eigenpairs within a subspace.

    Attributes:
        values: ``(B, k)``, descending, 0 where rounding hides them; on the host.
        vectors: ``(B, N, k)``, orthonormal.
        residual_norms: ``(B, k)``, on the host.
        images: ``(B, M, k)`` float64, J times the vectors.
        n_products: products with J or Jᵀ, or with A.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    images: Tensor
    n_products: int


def rayleigh_ritz(
    operator: LinearOperator,
    candidates: Candidates,
    streams: SampleStreams,
    noise: float | None = None,
) -> RitzPairs:
    """Eigenpairs of the operator restricted to the span of the candidates.

    Products are saved if the candidates are nearly orthonormal: those with J where their images are
    known, those with JᵀM but one where it is known what these have outside.

    Args:
        operator: symmetric, ``(B, N, N)``.
        candidates: where they are dependent or zero, the subspace is completed.
        streams: random signs.
        noise: λ/λ₁ under which an eigenvalue is rounding error, and 0, if there are no negative
            ones; by default, all stay what they are.

    Raises:
        ValueError: a product is not finite.
    """
    candidates, images, weighted, projected, mixing, n_products = _project(operator, candidates)
    V = candidates.vectors
    on_host, rotation = descending_eigh(mixing.mT @ projected @ mixing)
    if noise is not None:
        on_host = torch.where(on_host > noise * on_host[..., :1], on_host, 0.0)
    both = torch.cat([mixing @ rotation, on_host.unsqueeze(-2)], dim=-2)
    both = both.to(V.device, non_blocking=True)
    mixing, values = both[..., :-1, :], both[..., -1, :]
    # By rows, as products come.
    vectors = (mixing.mT.to(V.dtype) @ V.mT).mT
    sign = signs(vectors)
    vectors *= sign
    mixing = mixing * sign.double()
    norms, taken = _known_residual_norms(operator, candidates, weighted, mixing, values, streams)
    n_products += taken
    unknown = norms.isnan()
    if unknown.any():
        residuals = _pulled(operator, weighted @ mixing)
        require_finite(residuals, _problem(operator))
        residuals.addcmul_(vectors, values.unsqueeze(-2).to(V.dtype), value=-1)
        norms = torch.where(unknown, residuals.norm(dim=-2).cpu(), norms)
        n_products += V.shape[-1] if isinstance(operator, PullbackMetric) else 0
    return RitzPairs(
        values=on_host.to(V.dtype),
        vectors=vectors,
        residual_norms=norms.to(V.dtype),
        images=images @ mixing,
        n_products=n_products,
    )


def _project(
    operator: LinearOperator, candidates: Candidates
) -> tuple[Candidates, Tensor, Tensor, Tensor, Tensor, int]:
    """Candidates V, JV, MJV, VᵀJᵀMJV, a mixing T such that VT is orthonormal; and products taken.

    The projected operator and T, ``(B, k, k)`` float64, are on the host.
    """
    V, images, k = candidates.vectors, candidates.images, candidates.vectors.shape[-1]
    eye = torch.eye(k, dtype=torch.float64, device="cpu")
    if images is not None:
        weighted = _weighted(operator, images)
        both = torch.cat([(V.mT @ V).double(), images.mT @ weighted], dim=-1).cpu()
        gram, projected = both[..., :k], both[..., k:]
        if ((gram - eye).abs() < NEARLY).all():
            require_finite(projected, _problem(operator))
            upper = torch.linalg.cholesky(gram).mT
            mixing = torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True)
            return candidates, images, weighted, projected, mixing, 0
    V = torch.linalg.qr(normalise(V))[0]
    images = operator.jacobian._matmul(V) if isinstance(operator, PullbackMetric) else V
    images = images.double()
    weighted = _weighted(operator, images)
    projected = (images.mT @ weighted).cpu()
    require_finite(projected, _problem(operator))
    # If J = I, the products are those with M = A.
    return Candidates(V, images), images, weighted, projected, eye, k


def _known_residual_norms(
    operator: LinearOperator,
    candidates: Candidates,
    weighted: Tensor,
    mixing: Tensor,
    values: Tensor,
    streams: SampleStreams,
) -> tuple[Tensor, int]:
    """Norms of what JᵀM J V Q − V Q Λ has along V and F, and of the rounding besides.

    They are ``(B, k)``, on the host. V are the candidates, ``weighted`` is MJV, ``mixing`` Q
    ``(B, k, k)`` and ``values`` Λ ``(B, k)``.
    They are NaN where they are not known or not what a product finds. Products taken come second.
    """
    V, F = candidates.vectors, candidates.outside
    if F is None or candidates.images is None or candidates.coupling is None:
        return torch.full_like(values, torch.nan, device="cpu"), 0
    squares = (candidates.images * weighted).sum(-2)  # V are Ritz vectors: λ before any mixing
    along_V, along_F = squares.unsqueeze(-1) * mixing, candidates.coupling @ mixing
    sign = streams.normal(values.shape[-1], 1, like=values).sign()
    together = _pulled(operator, weighted @ mixing @ sign)
    together -= V @ (along_V @ sign).to(V.dtype)
    together -= F @ (along_F @ sign).to(V.dtype)
    rounding = together.norm(dim=-2).double()
    # Rounding errors are in proportion to the eigenvalues.
    length = values.norm(dim=-1, keepdim=True)
    share = rounding * values / torch.where(length > 0, length, 1.0)
    right = rounding <= 32 * torch.finfo(V.dtype).eps * values[:, :1]
    share = torch.where(right, share, torch.nan)
    along_V = along_V - mixing * values.unsqueeze(-2)
    return torch.cat([along_V, along_F, share.unsqueeze(-2)], dim=-2).norm(dim=-2).cpu(), 1


def _weighted(operator: LinearOperator, images: Tensor) -> Tensor:
    """M times the images ``(B, M, k)``, in float64."""
    own = isinstance(operator, PullbackMetric)
    columns = images.to(operator.dtype)
    product: Tensor = operator.weighted(columns) if own else operator._matmul(columns)
    return product.double()


def _pulled(operator: LinearOperator, weighted: Tensor) -> Tensor:
    """Jᵀ times columns ``(B, M, C)``."""
    columns = weighted.to(operator.dtype)
    if not isinstance(operator, PullbackMetric):
        return columns
    product: Tensor = operator.jacobian._t_matmul(columns)
    return product


def _problem(operator: LinearOperator) -> str:
    return DERIVATIVE if isinstance(operator, PullbackMetric) else PRODUCT

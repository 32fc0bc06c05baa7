"""Diagonals from products with random vectors, with an error for each entry.

The leading part of the spectrum is resolved, and what it adds to the diagonal known; the rest is
estimated, as Hutch++ does for a trace (Meyer, Musco, Musco & Woodruff 2021; for diagonals: Baston &
Nakatsukasa, "Stochastic diagonal estimation", 2022).
"""

from collections.abc import Iterator

import torch
from linear_operator import LinearOperator
from scipy.special import gammaincinv, ndtr
from torch import Tensor

from ..arguments import require_finite, require_integer, require_square
from ..base_operator import apply_operator
from ..eigen.convergence import rounding
from ..eigen.dense import descending_eigh, orthonormalise, project_out
from ..eigen.records import EigenPairs
from ..eigen.small_side import DERIVATIVE, PRODUCT
from ..operators import PullbackMetric
from ..products import library_call, max_block
from ..sampling import SampleStreams, as_generator
from .probes import student
from .records import Estimate
from .slq import check_pairs


@library_call
def diagonal(
    operator: LinearOperator,
    probes: int = 32,
    generator: torch.Generator | None = None,
    *,
    deflate: EigenPairs | None = None,
) -> Estimate:
    """The diagonal of an operator, entry by entry: of a pullback metric, which pixels matter.

    Gᵢᵢ is the squared length that a unit step of the i-th input gains. A third of the probes find
    the leading part of the spectrum, unless ``deflate`` has it, and what that adds is exact. Of
    what is left of a pullback metric, Gᵢᵢ is the mean of (Jᵀu)ᵢ(JᵀMu)ᵢ over Gaussian u on the side
    of the outputs, whose error is in proportion to what is left of that entry. Of another operator
    A it is the slope of the regression of (Az)ᵢ on zᵢ, over Gaussian z (Bekas, Kokiopoulou & Saad,
    "An estimator for the diagonal of a matrix", 2007, with random signs), whose error is that of
    the whole row. Both are unbiased.

    Args:
        operator: symmetric, ``(*batch, N, N)``. Products are taken in its dtype.
        probes: the cost, in products with the operator, at least 5. With N or more, or with as many
            as J has rows, the diagonal is exact.
        generator: seeds the random vectors; without one the seed is 0. The result for a sample
            depends on the seed and its position in the data, not on the batch size.
        deflate: eigenpairs of the operator, which are resolved in place of what probes find.

    Returns:
        :class:`Estimate`, ``(*batch, N)`` in the operator's dtype; not differentiable. Two standard
        errors hold the truth in 95 % of the entries; those of one sample share their probes.

    Raises:
        TypeError: ``operator`` is no LinearOperator, or ``probes`` no integer.
        ValueError: the operator is not square or gives NaN, there are too few probes, or
            ``deflate`` is of another operator.
    """
    require_square(operator)
    probes = require_integer("probes", probes, 5)
    if deflate is not None:
        check_pairs(operator, deflate)
    own = isinstance(operator, PullbackMetric)
    smaller = min(operator.jacobian.shape[-2:]) if own else operator.shape[-1]
    if probes >= smaller:
        exact = operator.diagonal().double()
        estimate = Estimate(exact, torch.zeros_like(exact))
    else:
        streams = SampleStreams(operator.batch_shape.numel(), as_generator(generator))
        vectors = None if deflate is None else deflate.vectors
        estimate = (_from_outputs if own else _by_regression)(operator, streams, probes, vectors)
    flat = estimate.value.reshape(-1, operator.shape[-1])
    require_finite(flat, DERIVATIVE if own else PRODUCT)
    return estimate.to(operator.dtype)


def _from_outputs(
    metric: PullbackMetric, streams: SampleStreams, probes: int, vectors: Tensor | None
) -> Estimate:
    """With B orthonormal in the inner product of M: G = (JᵀMB)(JᵀMB)ᵀ + JᵀM'J, M' = M − MBBᵀM."""
    J, sketch = metric.jacobian, 0 if vectors is not None else probes // 3
    rows = J.shape[-2]
    if vectors is None:
        drawn = _draw(streams, metric, rows, sketch)
        vectors = J._t_matmul(metric.weighted(drawn))
    B, MB = _orthonormal_by_weight(metric, J._matmul(vectors))
    resolved = J._t_matmul(MB.to(metric.dtype)).double().square().sum(-1)

    # (Jᵀu')ᵢ and (JᵀM'u)ᵢ are Gaussian, and their mean product is what is left of Gᵢᵢ.
    count = probes - 2 * sketch
    ab = aa = bb = torch.zeros_like(resolved)
    for u in _draw_in_groups(streams, metric, rows, count):
        a = b = J._t_matmul((u.double() - MB @ (B.mT @ u.double())).to(metric.dtype)).double()
        if metric.weight is not None:
            rest = metric.weighted(u).double() - MB @ (MB.mT @ u.double())
            b = J._t_matmul(rest.to(metric.dtype)).double()
        ab = ab + (a * b).sum(-1) / count
        aa, bb = aa + a.square().sum(-1) / count, bb + b.square().sum(-1) / count
    # The variance of a product is (aa·bb + ab²)/count. If a = b, the mean is distributed like χ²,
    # too small by chance more often than too large.
    spread = ((aa * bb + ab.square()) / 2).sqrt()
    least = 2 * float(gammaincinv(count / 2, 2 * ndtr(-2.0))) / count
    return Estimate(resolved + ab, (1 / least - 1) / 2 * spread)


def _orthonormal_by_weight(metric: PullbackMetric, images: Tensor) -> tuple[Tensor, Tensor]:
    """B and MB, float64, with BᵀMB = I on the span of images ``(*batch, M, C)``, and zeros."""
    Q = orthonormalise(images.double(), images.double()[..., :0])
    if metric.weight is None:
        return Q, Q
    MQ = metric.weighted(Q.to(metric.dtype)).double()
    squares, X = descending_eigh(Q.mT @ MQ)
    noise = rounding(metric.jacobian.shape[-2:], metric.dtype) * squares[..., :1]
    kept = (squares > noise) & (squares > 0)
    X = X * torch.where(kept, squares, torch.inf).rsqrt().unsqueeze(-2)
    return Q @ X, MQ @ X


def _by_regression(
    A: LinearOperator, streams: SampleStreams, probes: int, vectors: Tensor | None
) -> Estimate:
    """With a projector P = I − QQᵀ: A = QQᵀA + AQQᵀ − QQᵀAQQᵀ + PAP, and only PAP is sampled."""
    sketch = 0 if vectors is not None else probes // 3
    if vectors is None:
        vectors = apply_operator(A, _draw(streams, A, A.shape[-1], sketch))
    Q = orthonormalise(vectors.double(), vectors.double()[..., :0])
    AQ = apply_operator(A, Q.to(A.dtype)).double()
    resolved = (Q * (2 * AQ - Q @ (Q.mT @ AQ))).sum(-1)

    # Of Gaussians α = (Pz)ᵢ, of variance Pᵢᵢ, and β = (PAPz)ᵢ, given α, β has the mean
    # α (PAP)ᵢᵢ/Pᵢᵢ: the slope of a line through 0, whose error is distributed like Student's t.
    count = probes - 2 * sketch
    ab = aa = bb = torch.zeros_like(resolved)
    for z in _draw_in_groups(streams, A, A.shape[-1], count):
        a = project_out(z.double(), Q)[0]
        b = project_out(apply_operator(A, a.to(A.dtype)).double(), Q)[0]
        ab, aa, bb = ab + (a * b).sum(-1), aa + a.square().sum(-1), bb + b.square().sum(-1)
    share = (1 - Q.square().sum(-1)).clamp(min=0)
    inverse = torch.where(share > torch.finfo(A.dtype).eps, share / aa, 0.0)
    variance = (bb * aa - ab.square()).clamp(min=0) / (count - 1)
    return Estimate(resolved + ab * inverse, student(count - 1) * variance.sqrt() * inverse)


def _draw(streams: SampleStreams, like: LinearOperator, size: int, count: int) -> Tensor:
    """Gaussian columns ``(*batch, size, count)`` in the dtype and on the device of an operator."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    # Drawn one by one: the numbers must not depend on how columns are grouped.
    drawn = [
        streams.normal(size, like=empty).reshape(*like.batch_shape, size) for _ in range(count)
    ]
    return torch.stack(drawn, dim=-1)


def _draw_in_groups(
    streams: SampleStreams, like: LinearOperator, size: int, count: int
) -> Iterator[Tensor]:
    """As many columns at once as :func:`max_block` allows."""
    width = max(1, max_block(like.device) // (like.batch_shape.numel() * like.shape[-1]))
    for start in range(0, count, width):
        yield _draw(streams, like, size, min(width, count - start))

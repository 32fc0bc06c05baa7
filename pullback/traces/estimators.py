"""Traces from products with test vectors: Hutchinson, Hutch++ and XTrace.

All three are unbiased and take ``probes`` products with the operator, so they compare at equal
cost. Hutchinson's error falls like 1/√probes. The other two resolve the leading part of the
spectrum and estimate the rest: errors fall like 1/probes, exponentially where it decays fast.
"""

from dataclasses import replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_integer, require_square
from ..base_operator import apply_operator
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .probes import Complement, require_squarable, sampling_error, student
from .records import Estimate


@library_call
def hutchinson(
    operator: LinearOperator, probes: int = 30, generator: torch.Generator | None = None
) -> Estimate:
    """tr A as the mean of zᵀAz over random z (Girard 1987; Hutchinson 1990).

    Args:
        operator: symmetric, ``(*batch, N, N)``; products are taken in its dtype.
        probes: products with A, at least 2; they are uniform on the sphere of radius √N. With
            N or more, the trace is computed from N products and exact.
        generator: seeds the test vectors; without one the seed is 0. The result for a sample
            depends on the seed and its position in the data, not on the batch size.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable.

    Raises:
        TypeError: ``operator`` is no LinearOperator, or ``probes`` no integer.
        ValueError: the operator is not square or gives NaN, or there are too few probes.
    """
    streams = _streams(operator, generator)
    probes = require_integer("probes", probes, 2)
    return _mean_form(operator, Complement(operator), streams, probes).to(operator.dtype)


@library_call
def hutch_plus_plus(
    operator: LinearOperator, probes: int = 30, generator: torch.Generator | None = None
) -> Estimate:
    """tr A = tr QᵀAQ + tr PAP, the second by Hutchinson (Meyer, Musco, Musco & Woodruff 2021).

    Q spans A times a third of the probes, P projects onto its complement. Another third of the
    products give QᵀAQ, the rest tr PAP. Exact, up to rounding, if the rank is at most probes/3.

    Args:
        operator: symmetric, ``(*batch, N, N)``. Takes B·N·probes/3 numbers of memory.
        probes: products with A, at least 3; with N or more, the trace is exact.
        generator: seeds the test vectors, as for :func:`hutchinson`.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable.

    Raises:
        TypeError, ValueError: as for :func:`hutchinson`.
    """
    streams = _streams(operator, generator)
    probes = require_integer("probes", probes, 3)
    everything = Complement(operator)
    if probes >= operator.shape[-1]:
        return _mean_form(operator, everything, streams, probes).to(operator.dtype)
    sketch = probes // 3
    Q = _sketch(operator, _columns(everything, streams, sketch))[0]
    resolved = (Q * apply_operator(operator, Q)).double().sum((-2, -1))
    rest = _mean_form(operator, Complement(operator, Q), streams, probes - 2 * sketch)
    return replace(rest, value=resolved + rest.value).to(operator.dtype)


@library_call
def xtrace(
    operator: LinearOperator, probes: int = 30, generator: torch.Generator | None = None
) -> Estimate:
    """XTrace: every test vector probes what all the others leave (Epperly, Tropp & Webber 2024).

    With m = probes/2 test vectors Ω, AΩ = QR. Leaving vector i out of the sketch takes one
    direction s_i out of Q, the normalised i-th column of QR⁻ᵀ. The trace on what is left of Q, plus
    (N − m + 1)·vᵀAv/vᵀv with v the part of ω_i orthogonal to it, is one estimate; the result is
    the mean over i. Exact, up to rounding, if the rank is below m.

    Args:
        operator: symmetric, ``(*batch, N, N)``. Takes B·N·probes numbers of memory.
        probes: products with A, at least 4; an odd one is left out. With N or more, the trace is
            exact.
        generator: seeds the test vectors, as for :func:`hutchinson`.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable. The error is
        that of m correlated estimates: any two vectors probe what the other left out, which to
        leading order doubles the variance of the mean, and multiplies it where the sketch only just
        holds the leading part of the spectrum. (The scatter of the m, proposed in the paper, is too
        small by as much.)

    Raises:
        TypeError, ValueError: as for :func:`hutchinson`.
    """
    streams = _streams(operator, generator)
    probes = require_integer("probes", probes, 4)
    everything, N = Complement(operator), operator.shape[-1]
    if probes >= N:
        return _mean_form(operator, everything, streams, probes).to(operator.dtype)
    m = probes // 2
    Omega = _columns(everything, streams, m)
    Q, R = _sketch(operator, Omega)
    AQ = apply_operator(operator, Q)
    H, W = (Q.mT @ AQ).double(), (Q.mT @ Omega).double()
    S = _left_out_directions(R, torch.finfo(operator.dtype).eps)

    # As A is symmetric and AΩ = QR, small matrices know all of v_i = ω_i − Q x_i but its residual,
    # which takes P_i A v_i with the projector P_i = I − QQᵀ + s_i s_iᵀ.
    X = W - S * _dots(S, W).unsqueeze(-2)
    HX, HS = H @ X, H @ S
    raw = _dots(W, R) - 2 * _dots(X, R) + _dots(X, HX)
    scales = (N - m + 1) / (N - _dots(X, X))
    forms = scales * raw
    left_out = _dots(S, HS)
    resolved = H.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - left_out

    v = Omega - Q @ _as(Q, X)
    images = Q @ _as(Q, HX + S * _dots(S, R - HX).unsqueeze(-2)) - AQ @ _as(Q, X)
    quotients = forms / (N - m + 1)
    residuals = images - _as(Q, quotients).unsqueeze(-2) * v
    # The form of one vector tells its own variance, too low where the form is; what all the vectors
    # together know of s_i is the same for any v.
    squared = torch.maximum(
        scales * residuals.double().square().sum(-2), (left_out - quotients).square()
    )
    changes = _changes(N, (S, HS, left_out), (W, R, X, HX), raw, scales)
    variance = 2 * squared.mean(-1)
    shared = (changes * changes.mT).sum((-2, -1)) / (m * (m - 1))
    # No less than to leading order, and no more than between equal estimates.
    shared = shared.nan_to_num(0.0).clamp(variance / m, variance)
    error = student(m) * (variance / m + shared).sqrt()
    return Estimate((resolved + forms).mean(-1), error).to(operator.dtype)


def _changes(
    N: int,
    directions: tuple[Tensor, Tensor, Tensor],
    vectors: tuple[Tensor, Tensor, Tensor, Tensor],
    raw: Tensor,
    scales: Tensor,
) -> Tensor:
    """T_i − T_{i∖j}: what vector j's part of the sketch changes in estimate i, ``(*batch, m, m)``.

    T_{i∖j} leaves j out of the sketch as well. Given the sketch of all the others, T_{i∖j} and
    T_{j∖i} are independent, and neither T_i nor T_{i∖j} is biased by what ω_j is. So the covariance
    of T_i and T_j is the expectation of (T_i − T_{i∖j})(T_j − T_{j∖i}).

    Leaving out j too takes d = (s_j − g s_i)/√(1 − g²) out of Q, g = s_iᵀs_j, and adds d(dᵀω_i) to
    v_i: all that follows is in terms of dᵀω_i, dᵀHd and the like.
    """
    S, HS, left_out = directions
    W, R, X, HX = vectors
    m = S.shape[-1]
    g = S.mT @ S
    same = torch.eye(m, dtype=torch.bool, device=g.device)
    squared_length = (1 - g.square()).masked_fill(same, 1.0)

    def along(columns: Tensor) -> Tensor:
        """dᵀy_i for columns y_i."""
        products = columns.mT @ S
        own = products.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        return (products - g * own) / squared_length.sqrt()

    dHd = left_out.unsqueeze(-2) - 2 * g * (S.mT @ HS) + g.square() * left_out.unsqueeze(-1)
    dHd = dHd / squared_length
    step = along(W)
    form = raw.unsqueeze(-1) + 2 * step * (along(R) - along(HX)) + step.square() * dHd
    scale = (N - m + 2) / (N - _dots(X, X).unsqueeze(-1) + step.square())
    changes = (scales * raw).unsqueeze(-1) - scale * form + dHd
    return changes.masked_fill(same, 0.0)


def _streams(operator: LinearOperator, generator: torch.Generator | None) -> SampleStreams:
    require_square(operator)
    return SampleStreams(operator.batch_shape.numel(), as_generator(generator))


def _mean_form(
    operator: LinearOperator, complement: Complement, streams: SampleStreams, probes: int
) -> Estimate:
    """The mean of zᵀAz over z in a complement, ``(*batch,)`` float64."""
    forms, squared_residuals = [], []
    for z in complement.probes(streams, probes):
        product = complement.project(apply_operator(operator, z))
        form = (z * product).double().sum(-2)
        quotient = form / z.double().square().sum(-2)
        residual = product - quotient.unsqueeze(-2).to(z.dtype) * z
        forms.append(form)
        squared_residuals.append(residual.double().square().sum(-2))
    every_form = torch.cat(forms, dim=-1)
    require_squarable(operator, every_form)
    error = sampling_error(torch.cat(squared_residuals, dim=-1), operator.shape[-1])
    return Estimate(every_form.mean(-1), error)


def _columns(complement: Complement, streams: SampleStreams, count: int) -> Tensor:
    return torch.cat(list(complement.probes(streams, count)), dim=-1)


def _sketch(operator: LinearOperator, columns: Tensor) -> tuple[Tensor, Tensor]:
    """AΩ = QR, R in float64; Q is orthonormal whatever the rank."""
    product = apply_operator(operator, columns)
    require_squarable(operator, product)
    Q, R = torch.linalg.qr(product)
    return Q, R.double()


def _left_out_directions(R: Tensor, eps: float) -> Tensor:
    """Columns s_i = R⁻ᵀe_i/‖·‖: orthogonal to all columns of R but the i-th.

    Beyond the rank of the sketch pivots are rounding errors; they are raised so far above them that
    the inverse stays bounded, and s_i is orthogonal to the others up to rounding all the same.
    """
    m = R.shape[-1]
    pivots = R.diagonal(dim1=-2, dim2=-1)
    largest = R.abs().amax((-2, -1)).unsqueeze(-1)
    floor = torch.where(largest > 0, 4 * m * eps * largest, 1.0)
    raised = torch.where(pivots.abs() > floor, pivots, floor)
    R = R + torch.diag_embed(raised - pivots)
    identity = torch.eye(m, dtype=R.dtype, device=R.device).expand(R.shape)
    inverse = torch.linalg.solve_triangular(R.mT, identity, upper=False)
    return inverse / inverse.norm(dim=-2, keepdim=True)


def _as(like: Tensor, small: Tensor) -> Tensor:
    return small.to(like.dtype)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of corresponding columns."""
    return (a * b).sum(-2)

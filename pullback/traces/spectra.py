"""Traces and von Neumann entropies of pullback metrics, with standard errors."""

from collections.abc import Callable

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_choice, require_square
from ..eigen.driver import find_pairs, map_over_batch, solve
from ..eigen.records import PARTS_FACTOR, Spectrum
from ..eigen.request import Request, StoppingRule
from ..operators import PullbackMetric
from ..products import library_call
from ..sampling import SampleStreams
from .estimators import hutch_plus_plus, hutchinson, xtrace
from .records import Estimate
from .slq import estimate_entropy, sample_spectrum

NORMALIZATIONS = ("none", "trace", "max")
TRACE_METHODS = ("auto", "hutchinson", "hutch++", "xtrace")
ENTROPY_METHODS = ("auto", "slq")

# Krylov methods go on until the standard error is this small: of the trace relatively, of the
# trace-normalised entropy in nats, of the other two relative to the larger of them and 1.
TRACE_TOL = ENTROPY_TOL = 1e-3

# Leading eigenpairs of a metric that are taken out before its entropy is sampled.
DEFLATED = 8


@library_call
def trace(
    metric: LinearOperator,
    generator: torch.Generator | None = None,
    method: str = "auto",
    probes: int = 30,
) -> Estimate:
    """Σλ, from a Krylov method for pullback metrics or from random vectors.

    Args:
        metric: symmetric, ``(*batch, N, N)``.
        generator: seeds the starting vectors and probes; without one the seed is 0.
        method: ``"auto"``: of a :class:`PullbackMetric`, exact if J has few rows, else Ritz values
            plus a Hutchinson estimate of the rest, that of Hutch++ (Meyer, Musco, Musco & Woodruff
            2021) with a Krylov space for the sketch; of any other operator, ``"xtrace"``.
            ``"hutchinson"``, ``"hutch++"``, ``"xtrace"``: see :mod:`pullback.traces`.
        probes: products with the operator, for the methods that take random vectors.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable.

    Raises:
        TypeError: ``metric`` is no LinearOperator.
        ValueError: it is not square, or an argument is out of range.
    """
    require_square(metric)
    require_choice("method", method, TRACE_METHODS)
    if method == "auto" and isinstance(metric, PullbackMetric):
        return _estimate(metric, generator, estimate_trace, is_trace_accurate)
    estimators = {"hutchinson": hutchinson, "hutch++": hutch_plus_plus}
    return estimators.get(method, xtrace)(metric, probes, generator)


@library_call
def entropy(
    metric: LinearOperator,
    normalization: str = "trace",
    generator: torch.Generator | None = None,
    method: str = "auto",
    probes: int = 20,
    steps: int = 20,
) -> Estimate:
    """−Σ p log p of the spectrum (natural logarithm, 0·log 0 = 0).

    Args:
        metric: symmetric positive semi-definite, ``(*batch, N, N)``.
        normalization: ``"trace"``: p = λ/Σλ, the von Neumann entropy of a density matrix;
            ``"none"``: p = λ (Khan & Storkey 2023, Sec. 3.2, as printed);
            ``"max"``: p = λ/λ₁ (the authors' published code). A zero metric has entropy 0.
        generator: seeds the starting vectors and probes; without one the seed is 0.
        method: ``"auto"``: a Krylov method for a :class:`PullbackMetric`, ``"slq"`` for any other
            operator. ``"slq"``: stochastic Lanczos quadrature; of a PullbackMetric eight leading
            eigenpairs are deflated first.
        probes, steps: for ``"slq"``, see :func:`pullback.traces.trace_of_function`.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable. What a Krylov
        method leaves of the spectrum is known by its trace R, its sum of squares and its length,
        which bound its share of the entropy: a quarter of the distance between the bounds, and the
        error of R, make the error given, at most 1e-3 (of ``"trace"`` in nats, of the others
        relative to the larger of the entropy and 1). ``"slq"`` also gives ``lower`` and ``upper``
        for the probes drawn, except with ``"max"``, as no rule bounds λ₁; there its change in the
        last step is part of the error.

    Raises:
        TypeError: ``metric`` is no LinearOperator.
        ValueError: it is not square, an argument is out of range, or an eigenvalue negative.
    """
    require_square(metric)
    require_choice("normalization", normalization, NORMALIZATIONS)
    require_choice("method", method, ENTROPY_METHODS)
    if method == "auto" and isinstance(metric, PullbackMetric):
        return _estimate(
            metric,
            generator,
            lambda s: estimate_entropies(s)[normalization],
            lambda s: is_entropy_accurate(s, normalization),
        )
    request = Request(min(DEFLATED, metric.shape[-1]))

    def sample(operator: LinearOperator, streams: SampleStreams) -> Estimate:
        own = isinstance(operator, PullbackMetric)
        pairs = find_pairs(operator, request, streams) if own else None
        spectral = sample_spectrum(operator, streams, probes, steps, pairs)
        return estimate_entropy(spectral, normalization)

    return map_over_batch(metric, sample, generator).to(metric.dtype)


def estimate_trace(spectrum: Spectrum) -> Estimate:
    """Σλ of a spectrum; the exact part plus the estimated remainder."""
    return Estimate(spectrum.values.sum(-1) + spectrum.remainder, spectrum.remainder_error)


def estimate_entropies(spectrum: Spectrum) -> dict[str, Estimate]:
    """The entropy of a spectrum by each normalization, see :func:`entropy`.

    With T = Σλ and A = Σ λ log λ, the three are −A, log T − A/T and (T log λ₁ − A)/λ₁.
    """
    # The remainder's own Σ λ log λ is R log R − R·H, with the entropy H of how it is shared, whose
    # bounds are two standard errors either way.
    least, most = bound_entropy(spectrum)
    H, dH = (least + most) / 2, (most - least) / 4
    values, zero = spectrum.values, spectrum.values[..., 0] <= 0
    known, largest = (torch.where(zero, 1.0, part) for part in (values.sum(-1), values[..., 0]))
    A = torch.xlogy(values, values).sum(-1)
    # R itself, and what else it may be: a standard error either way, and where an entropy is at its
    # largest, if that is between. Slopes say nothing there, and an error may be as large as R.
    R, dR = spectrum.remainder, spectrum.remainder_error.detach()
    peaks = (H - 1).exp(), (H + A / known).exp(), largest * (H - 1).exp()
    low, high = (R.detach() - dR).clamp(min=0), R.detach() + dR
    R = torch.stack([R, low, high, *(peak.detach().clamp(low, high) for peak in peaks)])
    T = known + R
    A = A + torch.xlogy(R, R) - R * H
    # What they are, and their derivatives by H.
    entropies = {
        "none": (0.0 - A, R[0]),
        "trace": (T.log() - A / T, R[0] / T[0]),
        "max": ((torch.xlogy(T, largest) - A) / largest, R[0] / largest),
    }
    return {
        name: Estimate(
            found[0].masked_fill(zero, 0.0),
            torch.hypot((found - found[0]).abs().amax(0), by_H * dH).masked_fill(zero, 0.0),
        )
        for name, (found, by_H) in entropies.items()
    }


def bound_entropy(spectrum: Spectrum, factor: float = PARTS_FACTOR**2) -> tuple[Tensor, Tensor]:
    """The least and the largest entropy of how a remainder is shared, in nats.

    The sum of squares of the shares is 1/m, for m between the least parts and ``factor`` times as
    many.

    The least is log m at least (Rényi's, of order 2). The largest has one large share and others
    that are equal (Harremoës & Topsøe, "Inequalities between entropy and index of coincidence",
    2001).
    """
    least, most = spectrum.least_parts, spectrum.most_parts.clamp(min=1)
    square = torch.maximum(1 / (factor * least), 1 / most)
    others = (most - 1).clamp(min=1)
    large = (1 + (others * (most * square - 1).clamp(min=0)).sqrt()) / most
    rest = (1 - large).clamp(min=0)
    largest = -torch.xlogy(large, large) - torch.xlogy(rest, rest / others)
    return least.log(), torch.maximum(largest, least.log())


def is_trace_accurate(spectrum: Spectrum) -> Tensor:
    """Whether the trace is within TRACE_TOL, relatively, ``(B,)`` bool."""
    total = estimate_trace(spectrum)
    return total.std_error <= TRACE_TOL * total.value


def is_entropy_accurate(
    spectrum: Spectrum, normalization: str = "trace", tol: float = ENTROPY_TOL
) -> Tensor:
    """Whether an entropy's standard error is at most tol, ``(B,)`` bool; see ENTROPY_TOL."""
    estimate = estimate_entropies(spectrum)[normalization]
    scale = 1.0 if normalization == "trace" else estimate.value.abs().clamp(min=1)
    return estimate.std_error <= tol * scale


def _estimate(
    metric: PullbackMetric,
    generator: torch.Generator | None,
    read: Callable[[Spectrum], Estimate],
    stopping_rule: StoppingRule,
) -> Estimate:
    """What is read off the spectrum that a solver leaves."""
    request = Request(1, stopping_rule=stopping_rule)

    def find(metric: PullbackMetric, streams: SampleStreams) -> Estimate:
        spectrum = solve(metric, request, streams).spectrum
        return read(spectrum).map(lambda tensor: tensor.to(metric.device))

    return map_over_batch(metric, find, generator).to(metric.dtype)

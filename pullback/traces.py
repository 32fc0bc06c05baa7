"""Traces and von Neumann entropies of pullback metrics, with standard errors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .eigen import Spectrum, StoppingRule, check_arguments, over_batch, solve
from .operators import PullbackMetric
from .probes import SampleStreams, as_generator

NORMALIZATIONS = ("none", "trace", "max")

# Krylov runs go on until the trace's relative error, or that of every entropy, is this small.
TRACE_TOL = 1e-3
ENTROPY_TOL = 5e-4


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, ``(*batch,)`` each; rounding is not part of the error.

    What is exact up to rounding has error 0.
    """

    value: Tensor
    std_error: Tensor


def trace(metric: PullbackMetric, generator: torch.Generator | None = None) -> Estimate:
    """Σλ: exact if J has few rows, else Ritz values plus a Hutchinson estimate of the rest.

    The estimate is that of Hutch++ (Meyer, Musco, Musco & Woodruff 2021) with a Krylov space for
    the sketch: the rest is a small part of the trace, and so is its variance.

    Args:
        metric: ``(*batch, N, N)``.
        generator: seeds the starting vectors and probes; without one the seed is 0.

    Raises:
        TypeError: ``metric`` is not a :class:`PullbackMetric`.
    """
    return _estimate(metric, generator, trace_of, accurate_trace)


def entropy(
    metric: PullbackMetric,
    normalization: str = "trace",
    generator: torch.Generator | None = None,
) -> Estimate:
    """−Σ p log p of the spectrum (natural logarithm, 0·log 0 = 0).

    Args:
        metric: ``(*batch, N, N)``.
        normalization: ``"trace"``: p = λ/Σλ, the von Neumann entropy of a density matrix;
            ``"none"``: p = λ (Khan & Storkey 2023, Sec. 3.2, as printed);
            ``"max"``: p = λ/λ₁ (the authors' published code). A zero metric has entropy 0.
        generator: seeds the starting vectors and probes; without one the seed is 0.

    Returns:
        :class:`Estimate`. What a Krylov run leaves of the spectrum, a trace R shared by at most r
        eigenvalues, contributes between R log(1/R) and R log(r/R): half that distance is part of
        the error given.

    Raises:
        TypeError: ``metric`` is not a :class:`PullbackMetric`.
        ValueError: ``normalization`` is none of the three.
    """
    if normalization not in NORMALIZATIONS:
        choices = ", ".join(map(repr, NORMALIZATIONS))
        raise ValueError(f"normalization={normalization!r} is not one of {choices}")
    return _estimate(
        metric, generator, lambda spectrum: entropy_of(spectrum, normalization), accurate_entropies
    )


def trace_of(spectrum: Spectrum) -> Estimate:
    """Σλ of a spectrum; the exact part plus the estimated remainder."""
    return Estimate(spectrum.values.sum(-1) + spectrum.remainder, spectrum.remainder_error)


def entropy_of(spectrum: Spectrum, normalization: str) -> Estimate:
    """See :func:`entropy`.

    With T = Σλ and A = Σ λ log λ, the three are −A, log T − A/T and (T log λ₁ − A)/λ₁.
    """
    total = trace_of(spectrum)
    T, largest = total.value, spectrum.values[..., 0]
    A = torch.xlogy(spectrum.values, spectrum.values).sum(-1)
    # The remainder's own Σ λ log λ lies between R log(R/r) (all equal) and R log R (a single one).
    R, dR = spectrum.remainder, spectrum.remainder_error
    spread = R * spectrum.unresolved.clamp(min=1).log() / 2
    A = A + torch.xlogy(R, R) - spread
    slope = torch.where(R > 0, (R.log() + 1).abs(), 0.0)
    A_error = spread + slope * dR
    if normalization == "none":
        return Estimate(0.0 - A, A_error)
    if normalization == "trace":
        value = T.log() - A / T
        error = A_error / T + (A / T + 1).abs() * dR / T
    else:
        value = (torch.xlogy(T, largest) - A) / largest
        error = (A_error + largest.log().abs() * dR) / largest
    zero = largest <= 0
    return Estimate(value.masked_fill(zero, 0.0), error.masked_fill(zero, 0.0))


def accurate_trace(spectrum: Spectrum) -> Tensor:
    """Whether the trace is within TRACE_TOL, relatively, ``(B,)`` bool."""
    total = trace_of(spectrum)
    return total.std_error <= TRACE_TOL * total.value


def accurate_entropies(spectrum: Spectrum) -> Tensor:
    """Whether all three entropies are within ENTROPY_TOL·max(1, |S|), ``(B,)`` bool."""
    estimates = [entropy_of(spectrum, normalization) for normalization in NORMALIZATIONS]
    accurate = [e.std_error <= ENTROPY_TOL * e.value.abs().clamp(min=1) for e in estimates]
    return torch.stack(accurate).all(0)


def _estimate(
    metric: PullbackMetric,
    generator: torch.Generator | None,
    read: Callable[[Spectrum], Estimate],
    enough: StoppingRule,
) -> Estimate:
    check_arguments(metric, 1, "auto", ENTROPY_TOL)
    generator = as_generator(generator)

    def run(metric: PullbackMetric) -> dict[str, Tensor]:
        streams = SampleStreams(metric.shape[0], generator)
        _, spectrum = solve(metric, 1, "auto", 1e-4, streams, enough)
        return vars(read(spectrum))

    with torch.no_grad():
        estimate = over_batch(metric, run)
    return Estimate(**{name: tensor.to(metric.dtype) for name, tensor in estimate.items()})

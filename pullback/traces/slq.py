"""Stochastic Lanczos quadrature: tr f(A), and entropies (Ubaru, Chen & Saad 2017)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_integer, require_square
from ..base_operator import apply_operator
from ..eigen.convergence import rounding
from ..eigen.records import EigenPairs
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .integrands import XLOGX, Integrand, as_integrand
from .probes import Complement, sampling_error
from .quadrature import Interval, bracket, gauss, warn_of_doubts
from .records import Estimate
from .tridiagonal import Tridiagonal, tridiagonalise


@library_call
def trace_of_function(
    operator: LinearOperator,
    f: Integrand | Callable[[Tensor], Tensor],
    probes: int = 20,
    steps: int = 20,
    deflate: EigenPairs | None = None,
    generator: torch.Generator | None = None,
    interval: Interval | None = None,
) -> Estimate:
    """tr f(A) = Σ f(λ): known eigenpairs exactly, the rest from Gauss rules for random vectors.

    Args:
        operator: symmetric A, ``(*batch, N, N)``; products are taken in its dtype. Takes about
            max(2¹⁹, B·N)·steps numbers of memory.
        f: an :class:`Integrand`, or an elementwise function of float64 tensors, without bounds.
        probes: random vectors, at least 2; with N or more, unit vectors, which leave no sampling
            error.
        steps: Lanczos steps for each; products are probes·steps in all.
        deflate: eigenpairs of A. The converged ones contribute f(λ) and are projected out of the
            rest, whose trace is smaller, and so is its variance; others are ignored. That they are
            eigenpairs of A is seen by one more product for each.
        generator: seeds the probes; without one the seed is 0. The result for a sample depends on
            the seed and its position in the data, not on the batch size.
        interval: where all eigenvalues are known to lie, as for :func:`quadratic_form`.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable. The standard
        error is that of the probes plus the quadrature's. ``lower`` and ``upper`` bracket what
        exact quadrature would give *for the probes drawn*: with N probes or more that is tr f(A)
        itself, with fewer the sampling error comes on top.

    Raises:
        TypeError: ``operator`` is no LinearOperator, f not callable, or a number no integer.
        ValueError: shapes do not match, a number is too small, products are NaN, or a Ritz value
            lies outside of f's domain.

    Warns:
        QuadratureWarning: an error is infinite, see :func:`quadratic_form`.
    """
    require_square(operator)
    f = as_integrand(f)
    streams = SampleStreams(operator.batch_shape.numel(), as_generator(generator))
    sample = sample_spectrum(operator, streams, probes, steps, deflate)
    total = sample.total(f, interval)
    warn_of_doubts(total.std_error, steps)
    return replace(total, std_error=total.std_error + sample.error(f)).to(operator.dtype)


@dataclass(frozen=True)
class SpectralSample:
    """Deflated eigenvalues, and what Lanczos from all probes knows of the others.

    Attributes:
        T: for ``(*batch, probes)`` starts of squared length N − deflated.
        values, residuals: ``(*batch, k)`` float64, of the deflated pairs.
        deflated: ``(*batch, k)`` bool, which of them are.
        size: N.
    """

    T: Tridiagonal
    values: Tensor
    residuals: Tensor
    deflated: Tensor
    size: int

    def total(self, f: Integrand, interval: Interval | None = None) -> Estimate:
        """Σ f(λ), its quadrature error and its bounds for these probes, ``(*batch,)`` each."""
        rest = bracket(self.T, f, interval)
        known = torch.where(self.deflated, f(self.values), 0.0).sum(-1)
        # A pair's residual r couples it to the rest: two eigenvalues move, by r at most.
        change = f.variation(self.values, self.residuals)
        slack = 2 * torch.where(self.deflated, change, 0.0).sum(-1)
        return Estimate(
            known + rest.value,
            rest.std_error,
            None if rest.lower is None else known - slack + rest.lower,
            None if rest.upper is None else known + slack + rest.upper,
        )

    def error(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """The standard error of Σ f(λ) due to the choice of probes, ``(*batch,)``."""
        return sampling_error(gauss(self.T).variance(f), self.size)

    def largest(self) -> tuple[Tensor, Tensor]:
        """λ₁ ``(*batch,)``, and by how much the last Lanczos step raised it."""
        known = torch.where(self.deflated, self.values, 0.0)
        top = _top(self.T)
        steps = self.T.diagonal.shape[-1]
        earlier = _top(self.T.leading(steps - 1)) if steps > 1 else 0 * top
        earlier = torch.where(self.T.exact, top, earlier)
        largest, before = (torch.cat([known, tops], -1).amax(-1) for tops in (top, earlier))
        return largest, (largest - before).clamp(min=0)


def _top(T: Tridiagonal) -> Tensor:
    rule = gauss(T)
    return torch.where(rule.weights > 0, rule.nodes, 0.0).amax(-1)


def sample_spectrum(
    operator: LinearOperator,
    streams: SampleStreams,
    probes: int,
    steps: int,
    deflate: EigenPairs | None = None,
) -> SpectralSample:
    """Run Lanczos from every probe in the complement of the converged pairs."""
    probes, steps = require_integer("probes", probes, 2), require_integer("steps", steps, 1)
    if deflate is None:
        complement, scale = Complement(operator), None
        values = torch.zeros(*operator.batch_shape, 0, dtype=torch.float64, device=operator.device)
        residuals, deflated = values, values.bool()
    else:
        check_pairs(operator, deflate)
        deflated = deflate.converged
        values, residuals = deflate.values.double(), deflate.residual_norms.double()
        complement = Complement(operator, deflate.vectors * deflated.unsqueeze(-2))
        scale = torch.where(deflated, values.abs(), 0.0).amax(-1)
    parts = [
        tridiagonalise(operator, z, steps, complement, scale)[1]
        for z in complement.probes(streams, probes)
    ]
    T = Tridiagonal(
        torch.cat([part.diagonal for part in parts], dim=-2),
        torch.cat([part.off_diagonal for part in parts], dim=-2),
        torch.cat([part.mass for part in parts], dim=-1),
        torch.cat([part.scale for part in parts], dim=-1),
        parts[0].precision,
    )
    return SpectralSample(T, values, residuals, deflated, operator.shape[-1])


def check_pairs(operator: LinearOperator, pairs: EigenPairs) -> None:
    """Refuse what are no eigenpairs of this operator ``(*batch, N, N)``, one sentence each.

    Raises:
        TypeError: they are no EigenPairs.
        ValueError: shapes or dtypes do not match, or residuals are larger than they say.
    """
    if not isinstance(pairs, EigenPairs):
        raise TypeError(f"deflate must be EigenPairs, got {type(pairs).__name__}")
    if pairs.vectors.shape[:-1] != operator.shape[:-1] or pairs.vectors.dtype != operator.dtype:
        raise ValueError(
            f"deflate must hold vectors {operator.dtype} {(*operator.shape[:-1], 'k')}, got "
            f"{pairs.vectors.dtype} {tuple(pairs.vectors.shape)}"
        )
    vectors = pairs.vectors.double()
    values = torch.where(pairs.converged, pairs.values.double(), 0.0)
    images = apply_operator(operator, pairs.vectors).double()
    residuals = (images - vectors * values.unsqueeze(-2)).norm(dim=-2)
    noise = 8 * rounding(operator.shape[-2:], operator.dtype) * values.abs().amax(-1, keepdim=True)
    wrong = pairs.converged & (residuals > 4 * pairs.residual_norms.double() + noise)
    if wrong.any():
        raise ValueError(
            "deflate holds eigenpairs of another operator: ‖Av − λv‖ is up to "
            f"{residuals[wrong].max().item():.1e}, and not as small as they say"
        )


def estimate_entropy(sample: SpectralSample, normalization: str) -> Estimate:
    """−Σ p log p, normalised as by :func:`pullback.entropy`, ``(*batch,)`` float64.

    With T = Σλ and A = Σ λ log λ, from the same probes, an entropy S(T, A) has the sampling error
    of the one function ∂S/∂T·x + ∂S/∂A·x log x: the delta method, with their covariance in it.
    """
    T, total = sample.total(Integrand(lambda x: x)).value, sample.total(XLOGX)
    A, spread = total.value, total.std_error
    largest, raised = sample.largest()
    if normalization == "none":
        value, slope_T, slope_A = -A, torch.zeros_like(T), -torch.ones_like(T)
    elif normalization == "trace":
        value, slope_T, slope_A = T.log() - A / T, (1 + A / T) / T, -1 / T
    else:
        value = (torch.xlogy(T, largest) - A) / largest
        slope_T, slope_A = largest.log() / largest, -1 / largest
        spread = spread + (T + A - torch.xlogy(T, largest)).abs() / largest * raised

    def linearised(x: Tensor) -> Tensor:
        return slope_T[..., None, None] * x + slope_A[..., None, None] * XLOGX(x)

    lower = upper = None
    if normalization != "max" and total.lower is not None and total.upper is not None:
        # λ₁ has no bounds; T is exact for the probes, up to rounding.
        slack = slope_T.abs() * (sample.T.allowance * sample.T.mass).mean(-1)
        lower = value + slope_A * (total.upper - A) - slack
        upper = value + slope_A * (total.lower - A) + slack
    zero = (largest <= 0) | (T <= 0)
    estimate = Estimate(value, sample.error(linearised) - slope_A * spread, lower, upper)
    return estimate.map(lambda tensor: tensor.masked_fill(zero, 0.0))

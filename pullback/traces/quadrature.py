"""Gauss and Gauss–Radau rules for forms vᵀf(A)v, and the bounds that they give.

Golub & Meurant, "Matrices, Moments and Quadrature with Applications" (2010), chapters 6 and 7.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_integer, require_square
from ..base_operator import apply_operator
from ..eigen.dense import normalise, tridiagonal_eigh
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .integrands import Integrand, as_integrand
from .records import Estimate
from .tridiagonal import Tridiagonal, tridiagonalise

Interval = tuple[float | Tensor | None, float | Tensor | None]


class QuadratureWarning(UserWarning):
    """The error of a quadrature rule is not known."""


@dataclass(frozen=True)
class Rule:
    """Nodes and weights ``(*starts, n)``, float64; the weights sum to ‖v‖²."""

    nodes: Tensor
    weights: Tensor

    def apply(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Σ w f(node), ``(*starts,)``; where a weight is 0, f may be infinite."""
        return torch.where(self.weights > 0, self.weights * f(self.nodes), 0.0).sum(-1)

    def variance(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """‖f(A)v − ρv‖² with ρ = vᵀf(A)v/‖v‖², ``(*starts,)``."""
        mass = self.weights.sum(-1)
        mean = torch.where(mass > 0, self.apply(f) / mass, 0.0).unsqueeze(-1)
        return self.apply(lambda x: (f(x) - mean).square()).nan_to_num(nan=torch.inf)


@library_call
def quadratic_form(
    operator: LinearOperator,
    v: Tensor,
    f: Integrand | Callable[[Tensor], Tensor],
    steps: int = 20,
    interval: Interval | None = None,
) -> Estimate:
    """vᵀf(A)v by a Gauss rule, with bounds where the signs of f's derivatives are known.

    Args:
        operator: symmetric A, ``(*batch, N, N)``; products are taken in its dtype.
        v: ``(*batch, N)``.
        f: an :class:`Integrand`, or an elementwise function of float64 tensors, without bounds.
        steps: products with A, at most N; two more tell the size of its rounding. The rule is exact
            for polynomials of degree up to 2·steps − 1.
        interval: numbers or ``(*batch,)`` tensors (a, b) between which all eigenvalues are known
            to lie, or None for an end that is not known. Without it a is ``f.lowest`` if finite: 0
            for a positive semi-definite A under a logarithm.

    Returns:
        :class:`Estimate`, ``(*batch,)`` in the operator's dtype; not differentiable. The Gauss rule
        is a lower bound for ``even_sign`` 1, Gauss–Radau with a node at a one for ``odd_sign`` 1,
        and at b for −1; upper bounds for the opposite signs. The value is the Gauss rule, or the
        nearer bound if that is outside. Bounds are widened by what f changes for eigenvalues that
        are off by 24·√N·eps·‖A‖, as rounding may leave them. Nothing is random: the "standard
        error" is half the distance of the bounds before that, or without bounds the change by the
        last step (infinite after a single one). Where f is unbounded, as a logarithm at 0, bounds
        hold if A is regular beyond rounding, and need a > 0 to be finite on both sides.

    Raises:
        TypeError: ``operator`` is no LinearOperator, f not callable, or steps no integer.
        ValueError: shapes do not match, steps < 1, products are NaN, or a Ritz value lies outside
            of the interval or f's domain.

    Warns:
        QuadratureWarning: an error is infinite.
    """
    require_square(operator)
    f = as_integrand(f)
    steps = require_integer("steps", steps, 1)
    if not isinstance(v, Tensor) or v.shape != operator.shape[:-1] or v.dtype != operator.dtype:
        got = f"{v.dtype} {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(
            f"v must be a tensor {operator.dtype} {tuple(operator.shape[:-1])}, got {got}"
        )
    _, T = tridiagonalise(operator, v.unsqueeze(-1), steps, scale=_size(operator))
    estimate = bracket(T, f, interval)
    warn_of_doubts(estimate.std_error, steps)
    return estimate.to(operator.dtype)


def _size(operator: LinearOperator) -> Tensor:
    """‖A(Ag)‖/‖Ag‖ ≤ ‖A‖ for a random g, ``(*batch,)``: v alone may see small eigenvalues only."""
    streams = SampleStreams(operator.batch_shape.numel(), as_generator(None))
    like = torch.empty(0, dtype=operator.dtype, device=operator.device)
    g = streams.normal(operator.shape[-1], 1, like=like).reshape(*operator.shape[:-1], 1)
    unit = normalise(apply_operator(operator, g).double()).to(operator.dtype)
    return apply_operator(operator, unit).double().norm(dim=(-2, -1))


def gauss(T: Tridiagonal) -> Rule:
    """The Gauss rule: n nodes, exact for polynomials of degree up to 2n − 1 (Sec. 6.2)."""
    nodes, vectors = tridiagonal_eigh(T.diagonal, T.off_diagonal[..., :-1])
    return Rule(nodes, T.mass.unsqueeze(-1) * vectors[..., 0, :].square())


def radau(T: Tridiagonal, end: Tensor, below: bool) -> Rule:
    """The Gauss–Radau rule with a node at ``end``, n + 1 in all, exact up to degree 2n (Sec. 6.2).

    ``end`` ``(*starts,)`` bounds the spectrum, from below or else from above. Eigenvalues right at
    it make the rule ill-conditioned, so it is set up with the end moved outwards by twice the
    rounding of A; nodes beyond the end are moved back to it.
    """
    moved = end + (-2 if below else 2) * T.allowance
    nodes, vectors = tridiagonal_eigh(T.diagonal, T.off_diagonal[..., :-1])
    distance = nodes - moved.unsqueeze(-1)
    last = T.off_diagonal[..., -1]
    # The continued fraction eₙᵀ(T − end)⁻¹eₙ, from what the Gauss rule knows already.
    correction = (vectors[..., -1, :].square() / distance).sum(-1) * last.square()
    # A rule that has come to its end is never asked for; any finite matrix will do.
    corner = torch.where(T.exact, T.diagonal[..., 0], moved + correction)
    nodes, vectors = tridiagonal_eigh(
        torch.cat([T.diagonal, corner.unsqueeze(-1)], -1), T.off_diagonal
    )
    back = torch.maximum if below else torch.minimum
    return Rule(back(nodes, end.unsqueeze(-1)), T.mass.unsqueeze(-1) * vectors[..., 0, :].square())


def bracket(T: Tridiagonal, f: Integrand, interval: Interval | None = None) -> Estimate:
    """The Gauss rule for f, its quadrature error, and a lower and an upper bound where known.

    A rule outside of its bounds is moved to the nearer one. The error is half the distance of the
    bounds, or :func:`_expected_change`; 0 where the rule is exact. All are means over the starts
    ``(*batch, C)``, ``(*batch,)`` float64.
    """
    ends = _ends(T, f, interval)
    for end in ends:
        if end is not None:
            T = replace(T, scale=torch.maximum(T.scale, end.abs()))
    rule = gauss(T)
    _require_inside(rule, T, *ends)
    value, slack = rule.apply(f), _slack(f, rule.nodes, T)
    lower: list[tuple[Tensor, Tensor]] = []
    upper: list[tuple[Tensor, Tensor]] = []
    if f.even_sign is not None:
        (lower if f.even_sign > 0 else upper).append((value, slack))
    for end, side in zip(ends, (1, -1), strict=True):
        if end is not None and f.odd_sign is not None:
            other = radau(T, end, below=side > 0)
            bound = torch.where(T.exact, value, other.apply(f))
            # The end counts even where the rule is exact: rounding may hide eigenvalues near it.
            nodes = torch.cat([rule.nodes, other.nodes, end.unsqueeze(-1)], dim=-1)
            (lower if side * f.odd_sign > 0 else upper).append((bound, _slack(f, nodes, T)))
    error = _expected_change(T, value, f)
    if lower and upper:
        width = _least(upper) + _least([(-bound, slack) for bound, slack in lower])
        half = torch.where(T.exact, 0.0, width.clamp(min=0) / 2).mean(-1)
        error = torch.where(half.isfinite(), half, error)
    # Where both are infinite, nothing is known.
    below = [
        (bound - slack).nan_to_num(-torch.inf, torch.inf, -torch.inf) for bound, slack in lower
    ]
    above = [(bound + slack).nan_to_num(torch.inf, torch.inf, -torch.inf) for bound, slack in upper]
    least = torch.stack(below).amax(0) if below else None
    most = torch.stack(above).amin(0) if above else None
    if least is not None or most is not None:
        value = value.clamp(least, most)
    means = [None if bound is None else bound.mean(-1) for bound in (least, most)]
    return Estimate(value.mean(-1), error, *means)


def warn_of_doubts(error: Tensor, steps: int) -> None:
    """Warn of infinite errors, once."""
    unknown = error.isinf()
    if unknown.any():
        warnings.warn(
            f"the error of the quadrature is not known for {int(unknown.sum())} of "
            f"{unknown.numel()} samples: {steps} Lanczos steps have not settled, and no rule gives "
            "two bounds; take more steps, or an interval that holds all eigenvalues and on which f "
            "is finite",
            QuadratureWarning,
            stacklevel=4,
        )


def _least(bounds: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([bound for bound, _ in bounds]).amin(0)


def _slack(f: Integrand, nodes: Tensor, T: Tridiagonal) -> Tensor:
    """What rounding of A's products, and of the rule itself, may change in vᵀf(A)v.

    Three allowances: one for A, two for the end that :func:`radau` moves by as much.
    """
    arithmetic = 4 * T.diagonal.shape[-1] * torch.finfo(torch.float64).eps * f(nodes).abs()
    change = f.variation(nodes, 3 * T.allowance.unsqueeze(-1)) + arithmetic
    return torch.where(T.mass > 0, change.amax(-1) * T.mass, 0.0)


def _expected_change(T: Tridiagonal, value: Tensor, f: Integrand) -> Tensor:
    """Half the way that the rules still have to go, ``(*batch,)``, by those of fewer steps.

    If the changes g_{2n} − g_n fall by a factor ρ from each doubling of n to the next, those to
    come add up to ρ/(1 − ρ) times the last one. That is right if the rules settle like a power of
    n, and too much if they settle faster. A logarithm of eigenvalues far below the smallest Ritz
    value settles slower: the changes hardly fall, or grow, and then nothing is known.
    """
    n = T.diagonal.shape[-1]
    half, quarter = (
        gauss(T.leading(steps)).apply(f) if steps else torch.full_like(value, torch.nan)
        for steps in (n // 2, n // 4)
    )
    last, before = (
        torch.where(T.exact, 0.0, change.abs()).mean(-1)
        for change in (value - half, half - quarter)
    )
    size = (T.mass * f(T.diagonal).abs().amax(-1)).mean(-1).nan_to_num(0.0, 0.0)
    rounding = 4 * n * torch.finfo(torch.float64).eps * size
    ratio = torch.where(before.isfinite(), last / before, torch.inf)
    to_come = torch.where(ratio < 1, last * ratio / (1 - ratio), torch.inf)
    return torch.where(last <= rounding, last, to_come / 2)


def _ends(
    T: Tridiagonal, f: Integrand, interval: Interval | None
) -> tuple[Tensor | None, Tensor | None]:
    """The ends of the interval, a no lower than f's domain, ``(*batch, C)`` each."""
    a, b = (
        None
        if end is None
        else torch.as_tensor(end, dtype=T.mass.dtype, device=T.mass.device).unsqueeze(-1)
        for end in interval or (None, None)
    )
    if f.lowest > -torch.inf:
        a = torch.full_like(T.mass, f.lowest) if a is None else a.clamp(min=f.lowest)
    return (
        None if a is None else a.expand_as(T.mass),
        None if b is None else b.expand_as(T.mass),
    )


def _require_inside(rule: Rule, T: Tridiagonal, a: Tensor | None, b: Tensor | None) -> None:
    outside = torch.zeros_like(rule.nodes, dtype=torch.bool)
    for end, side in ((a, 1), (b, -1)):
        if end is not None:
            excess = side * (end.unsqueeze(-1) - rule.nodes)
            outside |= (excess > T.allowance.unsqueeze(-1)) & (rule.weights > 0)
    if outside.any():
        where = tuple(outside.nonzero()[0].tolist())
        low, high = ("any" if end is None else f"{end[where[:-1]].item():.4g}" for end in (a, b))
        raise ValueError(
            f"f needs eigenvalues from {low} to {high}, but sample "
            f"{where[0] if outside.ndim > 2 else 0} has a Ritz value of "
            f"{rule.nodes[where].item():.4g}"
        )

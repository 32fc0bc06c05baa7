"""One way through every method: solve, certify the eigenpairs, escalate what is left undone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from linear_operator import LinearOperator
from linear_operator.operators import IdentityLinearOperator
from torch import Tensor

from ..operators import PullbackMetric
from ..sampling import SampleStreams, as_generator
from .convergence import accepted_residual, rounding, zero_below
from .cost import choose_method, steps_before_dual
from .dense import signs, svd
from .dual import dual
from .golub_kahan import golub_kahan
from .lanczos import lanczos
from .lobpcg import lobpcg
from .nystrom import nystrom
from .rayleigh_ritz import RitzPairs, rayleigh_ritz
from .records import (
    PROBES,
    Candidates,
    EigenPairs,
    SingularTriplets,
    SolverResult,
    Spectrum,
    merge_samples,
    select_samples,
)
from .request import Request
from .scaling import bring_near_one, exponents, require_range, take_back
from .small_side import weigh

Record = TypeVar("Record")
Scaled = TypeVar("Scaled", EigenPairs, Spectrum)

# What a solver takes: an operator ``(B, N, N)``, a :class:`PullbackMetric` unless the solver is one
# of ON_ANY_OPERATOR; what is asked; and random vectors, of which a sample's result depends on its
# own alone.
Solver = Callable[[LinearOperator, Request, SampleStreams], SolverResult]

SOLVERS: dict[str, Solver] = {
    "dual": dual,
    "golub-kahan": golub_kahan,
    "lanczos": lanczos,
    "lobpcg": lobpcg,
    "nystrom": nystrom,
}

# Those that work on any symmetric operator itself; the others need a J.
ON_ANY_OPERATOR = ("lanczos", "lobpcg")

# Where samples go on that a method leaves undone.
ESCALATION = {"nystrom": "golub-kahan", "golub-kahan": "dual"}


class Solution(NamedTuple):
    """Eigenpairs and everything else that a solver learns of a metric ``(B, N, N)``.

    Attributes:
        pairs, spectrum: what is known of the metric; all but the vectors is on the host.
        images: ``(B, M, k)`` float64, J times the eigenvectors, but for a factor for each sample.
        small_side: see :class:`SolverResult`; of any length.
    """

    pairs: EigenPairs
    spectrum: Spectrum
    images: Tensor
    small_side: Tensor | None


def solve(metric: PullbackMetric, request: Request, streams: SampleStreams) -> Solution:
    """Eigenpairs and everything else that a solver learns, for a metric ``(B, N, N)``."""
    scaled = bring_near_one(metric)
    pairs, images, spectrum, small_side = _solve(scaled, request, streams)
    if spectrum is None:
        spectrum = _probe_remainder(scaled, pairs, images, streams)
        pairs = replace(pairs, n_products=pairs.n_products + PROBES)
    return Solution(_unscale(pairs, scaled), _unscale(spectrum, scaled), images, small_side)


def find_pairs(operator: LinearOperator, request: Request, streams: SampleStreams) -> EigenPairs:
    """Eigenpairs alone, of any symmetric operator ``(B, N, N)``."""
    needs_jacobian = request.method not in ("auto", *ON_ANY_OPERATOR)
    if needs_jacobian and not isinstance(operator, PullbackMetric):
        identity = IdentityLinearOperator(
            operator.shape[-1], operator.batch_shape, dtype=operator.dtype, device=operator.device
        )
        operator = PullbackMetric(identity, operator)
    scaled = bring_near_one(operator)
    pairs = _unscale(_solve(scaled, request, streams)[0], scaled)
    names = "values", "residual_norms", "converged", "iterations"
    there: dict[str, Any] = {n: getattr(pairs, n).to(pairs.vectors.device) for n in names}
    return replace(pairs, **there)


def find_triplets(
    jacobian: LinearOperator, request: Request, streams: SampleStreams
) -> SingularTriplets:
    """Leading singular triplets of any operator ``(B, M, N)``."""
    scaled = bring_near_one(PullbackMetric(jacobian))
    pairs, images, *_ = _solve(scaled, replace(request, triplets=True), streams)
    J, shape = scaled.jacobian, jacobian.shape[-2:]
    # The best triplets in the span of the vectors, without a Gram matrix; U is complete.
    left, values, rotation = svd(images)
    right = pairs.vectors @ rotation.mT.to(J.dtype)
    pulled = J._t_matmul(left.to(J.dtype))
    residuals = (pulled.double() - right.double() * values.unsqueeze(-2)).norm(dim=-2)
    largest = values[:, 0]
    noise = rounding(shape, J.dtype) * largest.unsqueeze(-1)
    zero, accepted = values <= noise, accepted_residual(values, largest, request.tol, J.dtype)
    accepted = torch.where(zero, torch.maximum(accepted, noise), accepted)
    exponent = exponents(scaled) / 2
    require_range(largest, exponent, scaled, "singular values")
    sign = signs(right)
    return SingularTriplets(
        left=left.to(J.dtype) * sign,
        values=take_back(values.masked_fill(zero, 0.0), exponent).to(J.dtype),
        right=right * sign,
        residual_norms=take_back(residuals, exponent).to(J.dtype),
        converged=residuals <= accepted,
        n_products=pairs.n_products + request.k,
        iterations=pairs.iterations.to(right.device),
    )


def _unscale(record: Scaled, operator: LinearOperator) -> Scaled:
    """The record of the operator itself, from that of the scaled one."""
    exponent = exponents(operator)
    measures = "values", "residual_norms", "remainder", "remainder_error"
    known = vars(record)
    changed: dict[str, Any] = {n: take_back(known[n], exponent) for n in measures if n in known}
    return replace(record, **changed)


def _solve(
    operator: LinearOperator, request: Request, streams: SampleStreams
) -> tuple[EigenPairs, Tensor, Spectrum | None, Tensor | None]:
    """Eigenpairs, J times their vectors, and the spectrum if the method tells more of it.

    Left singular vectors on the small side come last, if it has met more than k.
    """
    request = _settle(operator, request)
    result = SOLVERS[request.method](operator, request, streams)
    pairs, images = _certify(operator, result, request, streams)
    _teach(operator, result, request, pairs, images)
    spectrum, small_side = result.spectrum, result.small_side

    undone = _find_undone(result, request, pairs)
    if not undone.any():
        return pairs, images, spectrum, small_side
    done, rest = (~undone).nonzero()[:, 0], undone.nonzero()[:, 0]
    method = ESCALATION[request.method]
    request = replace(request, method=method, warm_start=None, start=None, max_steps=None)
    others, other_images, other, other_side = _solve(operator[rest], request, streams.select(rest))
    merged = merge_samples([(done, select_samples(pairs, done)), (rest, others)])
    iterations = pairs.iterations.index_add(0, rest, others.iterations)
    n_products = pairs.n_products + others.n_products
    pairs = replace(merged, iterations=iterations, n_products=n_products)
    images = images.index_copy(0, rest.to(images.device), other_images)
    if spectrum is not None and other is not None:
        spectrum = merge_samples([(done, select_samples(spectrum, done)), (rest, other)])
    if small_side is not None and other_side is not None:
        small_side = merge_samples([(done, select_samples(small_side, done)), (rest, other_side)])
    return pairs, images, spectrum, small_side


def _settle(operator: LinearOperator, request: Request) -> Request:
    """The request with the method chosen, and with what a warm start knows."""
    if not isinstance(operator, PullbackMetric) or request.which != "largest":
        method = "lanczos" if request.method == "auto" else request.method
        return replace(request, method=method, warm_start=None)
    if request.method == "auto":
        rows, columns = operator.jacobian.shape[-2:]
        method = choose_method(rows, columns, request.k, operator.weight is not None)
        request = replace(request, method=method, max_steps=steps_before_dual(rows, columns))
    if request.warm_start is not None:
        request = replace(request, start=request.warm_start.sketch)
    return request


def _certify(
    operator: LinearOperator, result: SolverResult, request: Request, streams: SampleStreams
) -> tuple[EigenPairs, Tensor]:
    """The best eigenpairs in the span of a result's candidates, and J times their vectors.

    Vectors and images are on the operator's device, the rest on the host, where it is judged.
    """
    candidates, n_products = result.candidates, result.n_products
    noise = None
    if isinstance(operator, PullbackMetric) and request.which == "largest":
        noise = zero_below(operator.jacobian.shape[-2:], operator.dtype)
    ritz = rayleigh_ritz(operator, candidates, streams, noise)
    largest = ritz.values.abs().amax(-1)
    if result.norm is not None:
        largest = torch.maximum(largest, result.norm.to(largest))
    if not request.triplets:
        require_range(largest, exponents(operator), operator, "eigenvalues")
    converged = _judge(ritz, largest, request.tol)
    if candidates.images is not None and not converged.all():
        # Rounding has spoilt the candidates. Their images are sound: a step of the power method.
        n_products += ritz.n_products + request.k
        images = operator.weighted(candidates.images.to(operator.dtype))
        candidates = Candidates(operator.jacobian._t_matmul(images))
        ritz = rayleigh_ritz(operator, candidates, streams, noise)
        converged = _judge(ritz, largest, request.tol)
    if result.finished is not None and request.method not in ESCALATION:
        converged &= result.finished.cpu().unsqueeze(-1)
    pairs = EigenPairs(
        values=ritz.values,
        vectors=ritz.vectors,
        residual_norms=ritz.residual_norms,
        converged=converged,
        n_products=n_products + ritz.n_products,
        iterations=result.iterations.cpu(),
    )
    return pairs, ritz.images


def _judge(ritz: RitzPairs, largest: Tensor, tol: float) -> Tensor:
    """Which pairs have converged, ``(B, k)`` bool, for operators of norm ``largest`` or more."""
    values = ritz.values
    return ritz.residual_norms <= accepted_residual(values, largest, tol, values.dtype)


def _find_undone(result: SolverResult, request: Request, pairs: EigenPairs) -> Tensor:
    """The samples that another method must go on with, ``(B,)`` bool."""
    if result.finished is None or request.method not in ESCALATION:
        return torch.zeros_like(pairs.iterations, dtype=torch.bool)
    return ~(result.finished.cpu() & pairs.converged.all(-1))


def _teach(
    operator: LinearOperator,
    result: SolverResult,
    request: Request,
    pairs: EigenPairs,
    images: Tensor,
) -> None:
    """Show a warm start what was found: left singular vectors, as long as their values."""
    if request.warm_start is None:
        return
    leading = result.small_side
    if leading is None:
        rows, columns = operator.jacobian.shape[-2:]
        wide = rows <= columns
        lengths = pairs.values.sqrt().unsqueeze(-2).to(images.device)
        leading = images if wide else pairs.vectors * lengths
    request.warm_start.learn(leading)


def _probe_remainder(
    metric: PullbackMetric, pairs: EigenPairs, images: Tensor, streams: SampleStreams
) -> Spectrum:
    """The spectrum as far as k eigenpairs tell, and the trace that they leave out."""
    probes = streams.normal(PROBES, metric.shape[-1], like=pairs.vectors).mT
    inside = (pairs.vectors.mT @ probes).double()
    left_out = metric.jacobian._matmul(probes).double() - images @ inside
    values = pairs.values.double()
    parts = max(0, min(metric.jacobian.shape[-2:]) - values.shape[-1])
    products = left_out.mT @ weigh(metric, left_out)
    return Spectrum.from_probes(values, products, torch.full_like(values[:, 0], parts))


def map_over_batch(
    operator: LinearOperator,
    find: Callable[[LinearOperator, SampleStreams], Record],
    generator: torch.Generator | None,
) -> Record:
    """Apply what works on ``(B, N, N)`` to an operator with any number of batch dimensions."""
    generator, batch = as_generator(generator), operator.batch_shape
    if len(batch) == 1:
        return find(operator, SampleStreams(batch[0], generator))
    slices = [operator[i] for i in range(batch[0])] if batch else [operator.unsqueeze(0)]
    parts = [map_over_batch(part, find, generator) for part in slices]

    def join(fields: list[Any]) -> Any:
        if isinstance(fields[0], Tensor):
            return torch.stack(fields) if batch else fields[0][0]
        return None if fields[0] is None else max(fields)

    joined = {name: join([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return type(parts[0])(**joined)

"""One way through every method: run it, certify its eigenpairs, escalate what it left undone."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .cost import cheapest, patience
from .dual import dual
from .golub_kahan import StoppingRule, golub_kahan
from .lanczos import lanczos
from .lobpcg import Preconditioner, lobpcg
from .nystrom import nystrom
from .rayleigh_ritz import Ritz, rayleigh_ritz
from .records import PROBES, Candidates, EigenPairs, Run, Spectrum, replaced
from .warm_start import WarmStart

# Where samples go on that a method leaves undone.
_ESCALATION = {"nystrom": "golub-kahan", "golub-kahan": "dual"}


@dataclass(frozen=True)
class Task:
    """What is asked of :func:`solve`; see :func:`pullback.eigsh` for the meaning."""

    k: int
    method: str = "auto"
    tol: float = 1e-4
    enough: StoppingRule | None = None
    block: int = 1
    warm_start: WarmStart | None = None
    preconditioner: Preconditioner | None = None


def solve(
    metric: PullbackMetric, task: Task, streams: SampleStreams
) -> tuple[EigenPairs, Spectrum]:
    """Eigenpairs and everything else that one run learns, for a metric ``(B, N, N)``."""
    rows, columns = metric.jacobian.shape[-2:]
    weighted = metric.weight is not None
    method = task.method
    if method == "auto":
        method = cheapest(rows, columns, task.k, weighted)
    run = _METHODS[method](metric, task, streams)
    pairs, images = _certified(metric, run, task, streams)
    spectrum = run.spectrum or _left_out(metric, pairs, images, streams)
    if task.warm_start is not None:
        wide = rows <= columns
        leading = images if wide else pairs.vectors * pairs.values.sqrt().unsqueeze(-2)
        task.warm_start.learn(leading if run.small_side is None else run.small_side)

    undone = ~run.finished
    if method == "nystrom":
        undone |= ~pairs.converged.all(-1)
    rest = undone.nonzero().flatten()
    if len(rest) and method in _ESCALATION:
        further = replace(task, method=_ESCALATION[method], warm_start=None)
        other_pairs, other = solve(metric[rest], further, streams.select(rest))
        pairs, spectrum = replaced(pairs, rest, other_pairs), replaced(spectrum, rest, other)
    return pairs, spectrum


def _dual(metric: PullbackMetric, task: Task, streams: SampleStreams) -> Run:  # noqa: ARG001
    return dual(metric, task.k)


def _golub_kahan(metric: PullbackMetric, task: Task, streams: SampleStreams) -> Run:
    steps = patience(*metric.jacobian.shape[-2:]) if task.method == "auto" else None
    return golub_kahan(metric, task.k, task.tol, streams, task.enough, task.block, max_steps=steps)


def _nystrom(metric: PullbackMetric, task: Task, streams: SampleStreams) -> Run:
    sketch = None if task.warm_start is None else task.warm_start.sketch
    return nystrom(metric, task.k, streams, sketch, task.enough)


def _lanczos(metric: PullbackMetric, task: Task, streams: SampleStreams) -> Run:
    side, start = _small_side(metric), _start(metric, task)
    k = min(task.k, side.shape[-1])
    return _lifted(metric, task.k, lanczos(side, k, task.tol / 10, streams, start=start))


def _lobpcg(metric: PullbackMetric, task: Task, streams: SampleStreams) -> Run:
    if task.preconditioner is None:
        side, start = _small_side(metric), _start(metric, task)
    else:  # it is one for the metric itself
        side, start = metric, None
    k, tol = min(task.k, side.shape[-1]), task.tol / 10
    return _lifted(metric, task.k, lobpcg(side, k, tol, streams, start, task.preconditioner))


_METHODS: dict[str, Callable[[PullbackMetric, Task, SampleStreams], Run]] = {
    "dual": _dual,
    "golub-kahan": _golub_kahan,
    "lanczos": _lanczos,
    "lobpcg": _lobpcg,
    "nystrom": _nystrom,
}


def _small_side(metric: PullbackMetric) -> PullbackMetric:
    """JJᵀ, with the non-zero spectrum of JᵀJ, if that is smaller; else the metric itself."""
    rows, columns = metric.jacobian.shape[-2:]
    small = rows < columns and metric.weight is None
    return PullbackMetric(metric.jacobian.mT) if small else metric


def _start(metric: PullbackMetric, task: Task) -> Tensor | None:
    sketch = None if task.warm_start is None else task.warm_start.sketch
    return sketch if sketch is not None and len(sketch) == _small_side(metric).shape[-1] else None


def _lifted(metric: PullbackMetric, k: int, pairs: EigenPairs) -> Run:
    """Eigenpairs of the smaller side, or of the metric, as candidates for the metric's: v = Jᵀu."""
    candidates, lifts = pairs.vectors, 0
    if candidates.shape[-2] != metric.shape[-1]:
        candidates, lifts = metric.jacobian.mT @ candidates, candidates.shape[-1]
    padded = torch.nn.functional.pad(candidates, (0, k - candidates.shape[-1]))
    return Run(
        candidates=Candidates(padded),
        small_side=None,
        spectrum=None,
        iterations=pairs.iterations,
        finished=torch.ones_like(pairs.iterations, dtype=torch.bool),
        n_products=2 * pairs.n_products + lifts,
    )


def _certified(
    metric: PullbackMetric, run: Run, task: Task, streams: SampleStreams
) -> tuple[EigenPairs, Tensor]:
    """The best eigenpairs in the span of a run's candidates, and J times their vectors."""
    candidates, products = run.candidates, run.n_products
    ritz = rayleigh_ritz(metric, candidates, streams)
    converged = _converged(ritz, task.tol)
    if candidates.images is not None and not converged.all():
        # Rounding has spoilt the candidates. Their images are sound: a step of the power method.
        products += ritz.n_products + task.k
        images = metric.weighted(candidates.images.to(metric.dtype))
        ritz = rayleigh_ritz(metric, Candidates(metric.jacobian._t_matmul(images)), streams)
        converged = _converged(ritz, task.tol)
    pairs = EigenPairs(
        values=ritz.values,
        vectors=ritz.vectors,
        residual_norms=ritz.residual_norms,
        converged=converged,
        n_products=products + ritz.n_products,
        iterations=run.iterations,
    )
    return pairs, ritz.images


def _converged(ritz: Ritz, tol: float) -> Tensor:
    noise = 32 * torch.finfo(ritz.values.dtype).eps * ritz.values[:, :1]
    return ritz.residual_norms <= torch.maximum(tol * ritz.values, noise)


def _left_out(
    metric: PullbackMetric, pairs: EigenPairs, images: Tensor, streams: SampleStreams
) -> Spectrum:
    """The spectrum as far as k eigenpairs tell, and the trace that they leave out."""
    probes = streams.normal(PROBES, metric.shape[-1], like=pairs.vectors).mT
    left_out = (
        metric.jacobian._matmul(probes).double() - images @ (pairs.vectors.mT @ probes).double()
    )
    weighted = metric.weighted(left_out.to(metric.dtype)).double()
    values = pairs.values.double()
    unresolved = max(0, min(metric.jacobian.shape[-2:]) - values.shape[-1])
    products = left_out.mT @ weighted
    return Spectrum.probed(values, products, torch.full_like(values[:, 0], unresolved))

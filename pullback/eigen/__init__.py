"""Leading eigenpairs of pullback metrics; one file per method, and `eigsh`, which picks."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from linear_operator import LinearOperator
from linear_operator.operators import IdentityLinearOperator
from torch import Tensor

from ..arguments import require_choice, require_integer, require_square
from ..operators import PullbackMetric
from ..sampling import SampleStreams, as_generator
from .cost import METHODS, cheapest, expected_products
from .driver import Task, solve
from .golub_kahan import StoppingRule
from .lanczos import lanczos
from .lobpcg import Preconditioner, lobpcg
from .records import ConvergenceWarning, EigenPairs, RankWarning, Spectrum
from .warm_start import WarmStart

__all__ = [
    "METHODS",
    "ConvergenceWarning",
    "EigenPairs",
    "Preconditioner",
    "RankWarning",
    "SingularTriplets",
    "Spectrum",
    "StoppingRule",
    "Task",
    "WarmStart",
    "cheapest",
    "check_task",
    "eigsh",
    "expected_products",
    "over_batch",
    "solve",
    "svds",
    "warn_of_doubts",
]

ENDS = ("largest", "smallest", "both")


def eigsh(
    metric: LinearOperator,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
    *,
    which: str = "largest",
    block: int = 1,
    warm_start: WarmStart | None = None,
    preconditioner: Preconditioner | None = None,
) -> EigenPairs:
    """k eigenpairs of a symmetric positive semi-definite operator, for every sample of its batch.

    Args:
        metric: ``(*batch, N, N)``, a :class:`PullbackMetric` or any other symmetric positive
            semi-definite linear operator; works in its dtype.
        k: how many, 1 ≤ k ≤ N. Beyond the rank, values are exactly 0 and vectors orthonormal, and
            a :class:`RankWarning` says so.
        method: with J the metric's Jacobian, M×N,
            ``"dual"``: exact, from M rows of J (or N columns, if they are fewer);
            ``"golub-kahan"``: bidiagonalisation of J; restarts when 2k + 90 vectors are kept;
            ``"lanczos"``: thick-restart Lanczos on JJᵀ;
            ``"lobpcg"``: block conjugate gradients on JJᵀ, or on the metric with a preconditioner;
            ``"nystrom"``: one pass over a sketch of JJᵀ, random or from ``warm_start``; samples
            that miss the tolerance go on with ``"golub-kahan"``;
            ``"auto"``: the cheaper of ``"dual"`` and ``"golub-kahan"`` by
            :func:`pullback.eigen.expected_products`. If a sample is not finished after min(M, N)/2
            steps, because its spectrum decays slowly, ``"dual"`` takes over, unless the
            Jacobian has over 2²⁶ entries.
            For an operator that is no pullback metric, Lanczos and LOBPCG work on the operator
            itself, the others with J the identity; ``"auto"`` is ``"lanczos"``.
        tol: an eigenpair is converged when ‖Gv − λv‖ ≤ max(tol·λ, 32·eps·λ₁). Golub–Kahan steps
            are taken until the eigenvector is that accurate as well, down to gaps of λ/100.
        generator: seeds the random vectors; without one the seed is 0. The result for a
            sample depends on the seed and its position in the data, not on the batch size.
        which: ``"largest"``; or, by Lanczos on the operator itself, which may then be indefinite,
            ``"smallest"`` or ``"both"`` (⌈k/2⌉ of the high end and ⌊k/2⌋ of the low end).
        block: vectors that a Golub–Kahan step adds.
        warm_start: a subspace learnt from earlier batches, for ``"nystrom"``, ``"lanczos"`` and
            ``"lobpcg"``; learns from this one. Golub–Kahan, which could start from one vector of it
            only, gains nothing by it.
        preconditioner: for ``"lobpcg"``: a linear operator or a function of residuals
            ``(B, N, C)``, positive definite, near the inverse of μ − G for μ just above λ₁.

    Returns:
        :class:`EigenPairs`, values descending; not differentiable.

    Raises:
        TypeError: ``metric`` is no linear operator, or k is no integer.
        ValueError: an argument is out of range, or does not go with the method.

    Warns:
        RankWarning, ConvergenceWarning: at most once each, with the samples concerned.
    """
    require_square(metric)
    task = check_task(metric, Task(k, method, tol, None, block, warm_start, preconditioner))
    _check_which(which, method)
    generator = as_generator(generator)

    def run(metric: LinearOperator) -> dict[str, Tensor]:
        pairs = _eigenpairs(metric, task, which, SampleStreams(metric.shape[0], generator))
        return vars(pairs) | {"n_products": torch.full_like(pairs.iterations, pairs.n_products)}

    with torch.no_grad():
        tensors = over_batch(metric, run)
    pairs = EigenPairs(n_products=int(tensors.pop("n_products").max()), **tensors)
    warn_of_doubts(pairs, tol)
    return pairs


def _eigenpairs(
    metric: LinearOperator, task: Task, which: str, streams: SampleStreams
) -> EigenPairs:
    own = isinstance(metric, PullbackMetric)
    if which != "largest":
        return lanczos(metric, task.k, task.tol, streams, which)
    if own:
        return solve(metric, task, streams)[0]
    if task.method in ("auto", "lanczos"):
        return lanczos(metric, task.k, task.tol, streams)
    if task.method == "lobpcg":
        return lobpcg(metric, task.k, task.tol, streams, preconditioner=task.preconditioner)
    identity = IdentityLinearOperator(
        metric.shape[-1], metric.batch_shape, dtype=metric.dtype, device=metric.device
    )
    return solve(PullbackMetric(identity, metric), task, streams)[0]


@dataclass(frozen=True)
class SingularTriplets:
    """The k largest singular triplets J v = σ u of a linear operator.

    Attributes:
        left: ``(*batch, M, k)``, orthonormal u.
        values: ``(*batch, k)``, σ, descending; exactly 0 beyond the numerical rank.
        right: ``(*batch, N, k)``, orthonormal v; the largest entry of each is positive.
        residual_norms: ``(*batch, k)``, ‖JᵀJ v − σ² v‖₂/σ, which is ‖Jᵀu − σv‖₂; 0 where σ is.
        converged, n_products, iterations: see :class:`EigenPairs`.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    residual_norms: Tensor
    converged: Tensor
    n_products: int
    iterations: Tensor


def svds(
    jacobian: LinearOperator,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> SingularTriplets:
    """The k largest singular triplets of a rectangular operator, such as a Jacobian.

    From the eigenpairs of its Gram operator, see :func:`eigsh`, and k further products. A small
    singular value has the absolute error of a square root: σ below √eps·σ₁ is uncertain.

    Args:
        jacobian: ``(*batch, M, N)``.
        k: how many, 1 ≤ k ≤ min(M, N).
        method, tol, generator: as for :func:`eigsh`.

    Raises:
        TypeError, ValueError: see :func:`eigsh`; and if k exceeds min(M, N).
    """
    k = require_integer("k", k, 1, min(jacobian.shape[-2:]), "min(M, N)")
    pairs = eigsh(PullbackMetric(jacobian), k, method, tol, generator)
    with torch.no_grad():
        # The images σu are orthogonal; QR also completes them where σ is 0.
        left, R = torch.linalg.qr(jacobian @ pairs.vectors)
    sign = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(left.dtype)
    values = pairs.values.sqrt()
    return SingularTriplets(
        left=left * sign.unsqueeze(-2),
        values=values,
        right=pairs.vectors,
        residual_norms=torch.where(values > 0, pairs.residual_norms / values, 0.0),
        converged=pairs.converged,
        n_products=pairs.n_products + k,
        iterations=pairs.iterations,
    )


def check_task(metric: LinearOperator, task: Task) -> Task:
    """Refuse what :func:`eigsh` cannot work with, one sentence each; k as a plain integer."""
    method = require_choice("method", task.method, ("auto", *METHODS))
    k = require_integer("k", task.k, 1, metric.shape[-1], "N")
    if not 0 < task.tol < 1:
        raise ValueError(f"tol={task.tol!r} must lie between 0 and 1")
    require_integer("block", task.block, 1)
    if task.block > 1 and method != "golub-kahan":
        raise ValueError(f"block={task.block} is for method='golub-kahan', not {method!r}")
    if task.preconditioner is not None and method != "lobpcg":
        raise ValueError(f"a preconditioner is for method='lobpcg', not {method!r}")
    return replace(task, k=k)


def _check_which(which: str, method: str) -> None:
    require_choice("which", which, ENDS)
    if which != "largest" and method not in ("auto", "lanczos"):
        raise ValueError(f"which={which!r} is for method='lanczos', not {method!r}")


def over_batch(
    metric: LinearOperator, run: Callable[[LinearOperator], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Apply what works on ``(B, N, N)`` to an operator with any number of batch dimensions."""
    batch = metric.batch_shape
    if len(batch) == 1:
        return run(metric)
    if not batch:
        return {name: tensor[0] for name, tensor in run(metric.unsqueeze(0)).items()}
    parts = [over_batch(metric[i], run) for i in range(batch[0])]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def warn_of_doubts(pairs: EigenPairs, tol: float) -> None:
    """Warn, at most once each, of eigenvalues beyond the rank and of pairs that missed ``tol``."""
    k = pairs.values.shape[-1]
    values, residual_norms = pairs.values.reshape(-1, k), pairs.residual_norms.reshape(-1, k)
    converged = pairs.converged.reshape(-1, k)
    rank = (values != 0).sum(-1)
    if (rank < k).any():
        lowest = int(rank.argmin())
        warnings.warn(
            f"k={k} exceeds the numerical rank of {int((rank < k).sum())} of {len(rank)} metrics "
            f"(rank {int(rank[lowest])} in sample {lowest}); the eigenvalues beyond it are "
            "returned as 0, with orthonormal vectors",
            RankWarning,
            stacklevel=3,
        )
    failed = ~converged.all(-1)
    if failed.any():
        worst = (residual_norms / values.abs().amax(-1, keepdim=True)).masked_fill(converged, 0.0)
        sample, rank_index = divmod(int(worst.argmax()), k)
        warnings.warn(
            f"eigenpairs of {int(failed.sum())} of {len(failed)} samples missed tol={tol:g}; "
            f"the worst residual is {worst.max().item():.1e}·λ₁ (sample {sample}, pair "
            f"{rank_index}); use float64 inputs or a larger tol",
            ConvergenceWarning,
            stacklevel=3,
        )

"""Leading eigenpairs of pullback metrics; one file per method, and `eigsh`, which picks."""

import operator
import warnings
from collections.abc import Callable

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..operators import PullbackMetric
from ..probes import SampleStreams, as_generator
from .dual import dual
from .golub_kahan import StoppingRule, golub_kahan
from .records import ConvergenceWarning, EigenPairs, RankWarning, Spectrum
from .ritz import rayleigh_ritz

__all__ = [
    "METHODS",
    "ConvergenceWarning",
    "EigenPairs",
    "RankWarning",
    "Spectrum",
    "StoppingRule",
    "check_arguments",
    "eigsh",
    "over_batch",
    "solve",
    "warn_of_doubts",
]

METHODS = ("auto", "dual", "golub-kahan")

# Numbers in the Jacobian of one sample up to which "auto" may write it down.
DENSE_JACOBIAN = 2**26


def eigsh(
    metric: PullbackMetric,
    k: int = 5,
    method: str = "auto",
    tol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """The k largest eigenpairs of a pullback metric, for every sample of its batch.

    Args:
        metric: ``(*batch, N, N)``; works in its dtype.
        k: how many, 1 ≤ k ≤ N. Beyond the rank, values are exactly 0 and vectors orthonormal, and
            a :class:`RankWarning` says so.
        method: ``"dual"``: exact, from M VJPs (M rows of the Jacobian).
            ``"golub-kahan"``: Krylov, for a large M; about 10 to 30 products with J and Jᵀ each
            where the spectrum decays, up to M where it does not.
            ``"auto"``: ``"dual"`` if min(M, N) ≤ 7k + 42, where being exact costs little more, if
            at all, than a Krylov run, or if a weighted J has more rows than columns; else
            ``"golub-kahan"``, and after min(M, N)/6 steps ``"dual"`` for samples whose spectrum
            decays too slowly, unless their Jacobian has over 2²⁶ entries.
        tol: an eigenpair is converged when ‖Gv − λv‖ ≤ max(tol·λ, 32·eps·λ₁). Golub–Kahan steps
            are taken until the eigenvector is that accurate as well, down to gaps of λ/100.
        generator: seeds the Krylov starting vectors; without one the seed is 0. The result for a
            sample depends on the seed and its position in the data, not on the batch size.

    Returns:
        :class:`EigenPairs`; not differentiable.

    Raises:
        TypeError: ``metric`` is not a :class:`PullbackMetric`, or k is no integer.
        ValueError: k, tol or the method is out of range.

    Warns:
        RankWarning, ConvergenceWarning: at most once each, with the samples concerned.
    """
    k = check_arguments(metric, k, method, tol)
    generator = as_generator(generator)

    def run(metric: PullbackMetric) -> dict[str, Tensor]:
        pairs, _ = solve(metric, k, method, tol, SampleStreams(metric.shape[0], generator))
        return vars(pairs) | {"n_products": torch.full_like(pairs.iterations, pairs.n_products)}

    with torch.no_grad():
        tensors = over_batch(metric, run)
    pairs = EigenPairs(n_products=int(tensors.pop("n_products").max()), **tensors)
    warn_of_doubts(pairs, tol)
    return pairs


def solve(
    metric: PullbackMetric,
    k: int,
    method: str,
    tol: float,
    streams: SampleStreams,
    enough: StoppingRule | None = None,
) -> tuple[EigenPairs, Spectrum]:
    """Eigenpairs and everything else that one run learns, for a metric ``(B, N, N)``.

    Arguments as for :func:`eigsh`; ``enough`` is a further condition for Krylov methods to stop.
    """
    rows, columns = metric.jacobian.shape[-2:]
    cheap = min(rows, columns) <= 7 * k + 42
    tall_and_weighted = rows > columns and metric.weight is not None
    if method == "dual" or (method == "auto" and (cheap or tall_and_weighted)):
        candidates, spectrum, products = dual(metric, k)
        iterations = torch.zeros(metric.shape[0], dtype=torch.long, device=metric.device)
    else:
        # A step costs about three of dual's products: a sixth of them, half of dual.
        may_give_up = method == "auto" and rows * columns <= DENSE_JACOBIAN
        patience = min(rows, columns) // 6 if may_give_up else None
        run = golub_kahan(metric, k, tol, streams, enough, patience)
        candidates, spectrum, iterations = run.candidates, run.spectrum, run.steps
        products = run.n_products
        rest = (~run.finished).nonzero().flatten()
        if len(rest):
            exact_candidates, exact, cost = dual(metric[rest], k)
            candidates[rest] = exact_candidates
            spectrum = spectrum.replaced(rest, exact)
            products += cost
    values, vectors, residual_norms = rayleigh_ritz(metric, candidates)
    eps = torch.finfo(metric.dtype).eps
    accepted = torch.maximum(tol * values, 32 * eps * values[:, :1])
    pairs = EigenPairs(
        values=values,
        vectors=vectors,
        residual_norms=residual_norms,
        converged=residual_norms <= accepted,
        n_products=products + 2 * k,
        iterations=iterations,
    )
    return pairs, spectrum


def check_arguments(metric: PullbackMetric, k: int, method: str, tol: float) -> int:
    """Refuse what :func:`eigsh` cannot work with, one sentence each; k as a plain integer."""
    if not isinstance(metric, PullbackMetric):
        hint = "; wrap its root as pb.PullbackMetric(J)" if _is_operator(metric) else ""
        raise TypeError(f"expected a PullbackMetric, got {type(metric).__name__}{hint}")
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TypeError(f"k must be an integer, got {k!r}")
    if not 1 <= k <= metric.shape[-1]:
        raise ValueError(f"k={k} eigenpairs asked for; 1 to N = {metric.shape[-1]} exist")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, METHODS))}")
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol!r} must lie between 0 and 1")
    return operator.index(k)


def _is_operator(metric: object) -> bool:
    return isinstance(metric, LinearOperator | Tensor)


def over_batch(
    metric: PullbackMetric, run: Callable[[PullbackMetric], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Apply what works on ``(B, N, N)`` to a metric with any number of batch dimensions."""
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
    rank = (values > 0).sum(-1)
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
        worst = (residual_norms / values[:, :1]).masked_fill(converged, 0.0)
        sample, rank_index = divmod(int(worst.argmax()), k)
        warnings.warn(
            f"eigenpairs of {int(failed.sum())} of {len(failed)} samples missed tol={tol:g}; "
            f"the worst residual is {worst.max().item():.1e}·λ₁ (sample {sample}, pair "
            f"{rank_index}); use float64 inputs or a larger tol",
            ConvergenceWarning,
            stacklevel=3,
        )

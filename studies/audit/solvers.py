"""The solvers on batches of problems: what they call converged, beside dense float64."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb

from .problems import BATCH, TOL, Problems


@dataclass(frozen=True)
class Verdict:
    """For each problem of a batch, ``(B,)`` bool: all pairs converged, and whether falsely so."""

    converged: Tensor
    wrong_value: Tensor
    wrong_residual: Tensor


def audit_solvers(
    part: str, draw: Callable[[Generator], Problems], count: int, seed: int
) -> Iterator[dict[str, str | int]]:
    """A row of the table for each method, from ``count`` problems in all."""
    batches = max(1, count // (BATCH * len(pb.METHODS)))
    for method in pb.METHODS:
        counts: Counter[str] = Counter()
        for index in tqdm(range(batches), desc=f"{part}, {method}", leave=False):
            rng = np.random.default_rng([seed, index, len(part)])
            problems = draw(rng)
            if not _takes(method, problems):
                continue
            verdict = judge(problems, method, index)
            counts["problems"] += BATCH
            for name, which in vars(verdict).items():
                counts[name] += int(which.sum())
        yield {
            "part": part,
            "method": method,
            "problems": counts["problems"],
            "not converged": counts["problems"] - counts["converged"],
            "false values": counts["wrong_value"],
            "false residuals": counts["wrong_residual"],
        }


def _takes(method: str, problems: Problems) -> bool:
    """Whether the method takes these: not those with a weight and a tall Jacobian, but the dual."""
    operator = problems.operator
    if method not in ("golub-kahan", "nystrom") or not isinstance(operator, pb.PullbackMetric):
        return True
    rows, columns = operator.jacobian.shape[-2:]
    return operator.weight is None or rows <= columns


def judge(problems: Problems, method: str, seed: int) -> Verdict:
    """Solve, and compare what is called converged with the truth."""
    k, dtype = problems.k, problems.operator.dtype
    block = problems.block if method == "golub-kahan" else 1
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is in `converged`
        pairs = pb.eigsh(problems.operator, k, method, TOL, generator, block=block)
    G = problems.dense
    exact = torch.linalg.eigvalsh(G).flip(-1)[:, :k]
    values, residuals = (t.double() / problems.size for t in (pairs.values, pairs.residual_norms))
    vectors = pairs.vectors.double()
    true = (G @ vectors - vectors * values.unsqueeze(-2)).norm(dim=-2)
    # What rounding may do: to the operator's products, and to the dense matrix.
    noise = (40 + 8 * G.shape[-1] ** 0.5) * torch.finfo(dtype).eps * exact[:, :1].clamp(min=0)
    # A mixture of two eigenvectors can have a residual of tol·λ, and values off by twice that.
    wrong_value = (values - exact).abs() > 2 * TOL * exact.abs() + noise
    wrong_residual = true > torch.maximum(1.01 * residuals, TOL * values.abs()) + noise
    return Verdict(
        converged=pairs.converged.all(-1),
        wrong_value=(wrong_value & pairs.converged).any(-1),
        wrong_residual=(wrong_residual & pairs.converged).any(-1),
    )

"""The exact spectrum from the small side: M VJPs give every row of J, and JJᵀ its eigenvalues."""

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..products import max_block
from ..sampling import SampleStreams
from .dense import descending_eigh, first_columns, square_root, svd
from .records import Candidates, SolverResult, Spectrum
from .request import Request
from .small_side import DERIVATIVE


def dual(metric: PullbackMetric, request: Request, streams: SampleStreams) -> SolverResult:  # noqa: ARG001
    """k eigenvectors and all non-zero eigenvalues of Jᵀ M J, exactly.

    JJᵀ (M×M) has the same non-zero eigenvalues as JᵀJ (N×N), and v = Jᵀu/√λ turns its
    eigenvectors into those of JᵀJ; with a weight, M^½ JJᵀ M^½ and v = JᵀM^½u/√λ. If J has more
    rows than columns, its columns are taken instead. Gram matrices are formed and diagonalised in
    float64, a few samples at a time. Nothing is random. Triplets, whose squares a Gram matrix would
    round, come from J itself.
    Candidates are zero beyond the smaller side of J.
    """
    k = request.k
    rows, columns = metric.jacobian.shape[-2:]
    solve_group = _from_rows if rows <= columns else _from_columns
    if request.triplets:
        solve_group = _from_all
    size = max(1, max_block(metric.device) // (rows * columns))
    if size < metric.shape[0]:
        metric.jacobian.linearize()
    groups = [
        solve_group(metric[start : start + size], k, start)
        for start in range(0, metric.shape[0], size)
    ]
    values, candidates, vectors = (torch.cat(parts) for parts in zip(*groups, strict=True))
    values = values.clamp(min=0)
    spectrum = values.cpu()
    none = spectrum.new_zeros(len(values))
    return SolverResult(
        candidates=Candidates(first_columns(candidates, k)),
        small_side=vectors * values.sqrt().unsqueeze(-2),
        spectrum=Spectrum(spectrum, none, none, none + 1, none),
        iterations=values.new_zeros(len(values), dtype=torch.long),
        finished=values.new_ones(len(values), dtype=torch.bool),
        n_products=min(rows, columns),
    )


def _from_rows(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    J = metric.jacobian.to_dense()
    require_finite(J, DERIVATIVE, start)
    if metric.weight is not None:
        M = metric.weight.to_dense().double()
        require_finite(M, "the weight is NaN or infinite", start)
        J = (square_root(M) @ J.double()).to(J.dtype)
    rows = J.double()
    values, u = descending_eigh(rows @ rows.mT)
    return values, J.mT @ u[..., :k].to(J.dtype), u


def _from_columns(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    G = metric.to_dense().double()
    require_finite(G, DERIVATIVE, start)
    values, v = descending_eigh(G)
    return values, v[..., :k].to(metric.dtype), v


def _from_all(metric: PullbackMetric, k: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
    J = metric.jacobian.to_dense()
    require_finite(J, DERIVATIVE, start)
    wide = J.shape[-2] <= J.shape[-1]
    # J = L Qᵀ or Q R: what is left to decompose is small and square.
    Q, R = torch.linalg.qr((J.mT if wide else J).double())
    left, sigma, right = svd(R)
    v = Q @ left[..., :k] if wide else right.mT[..., :k]
    return sigma.square(), v.to(J.dtype), right.mT

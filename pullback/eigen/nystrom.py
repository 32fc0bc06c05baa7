"""Single-pass Nyström approximation of the small side, from a random or a warm sketch."""

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .bases import RowChunks
from .convergence import rounding
from .dense import descending_eigh, eigh, first_columns, symmetrise
from .records import PROBES, Candidates, SolverResult, Spectrum
from .request import Request
from .small_side import DERIVATIVE, weigh, wide_jacobian


def nystrom(metric: PullbackMetric, request: Request, streams: SampleStreams) -> SolverResult:
    """Approximate K = JJᵀ by (KW)(WᵀKW)⁺(KW)ᵀ for p sketch vectors W: p VJPs and p JVPs.

    None of these products waits for another. The approximation is J P Jᵀ with P the projector onto
    the range of Y = JᵀW, so this is Rayleigh–Ritz on that range, and its eigenvectors are Y c
    (Halko, Martinsson & Tropp 2011, §5.5; Tropp, Yurtsever, Udell & Cevher 2017). With a weight M,
    W stands for MW, and ⟨a, b⟩ = aᵀMb. If J has more rows than columns, Jᵀ stands for J.

    The sketch is ``start``, a subspace near the leading one, or random, with p = 2k + 14. What
    counts as ``finished`` is what the probes and the stopping rule say; residuals are known only
    after certification.

    Raises:
        ValueError: the metric has a weight and J more rows than columns, or the sketch has another
            length than the smaller side of J.
    """
    k, J = request.k, wide_jacobian(metric, "nystrom")
    batch, rows, columns = J.shape
    W = torch.linalg.qr(_sketch(metric, request, streams, rows))[0]
    # One vector after the other: no tensor has p vectors of N entries.
    MW = weigh(metric, W)
    Y, images = RowChunks(), []
    for w in MW.split(1, dim=-1):
        y = J._t_matmul(w.to(metric.dtype))
        images.append(J._matmul(y))
        Y.append(y.mT)
    Z = torch.cat(images, dim=-1).double()
    require_finite(Z, DERIVATIVE)

    # V = Yᵀ T is orthonormal; directions that rounding hides become columns of zeros.
    noise = rounding((rows, columns), metric.dtype)
    squares, c = eigh(symmetrise(MW.mT @ Z))
    kept = (squares > noise * squares[:, -1:]) & (squares > 0)
    T = c * torch.where(kept, squares, torch.inf).rsqrt().unsqueeze(-2)
    JV = Z @ T
    values, rotation = descending_eigh(JV.mT @ weigh(metric, JV))
    small_side = JV @ rotation

    # What the probes have outside of V.
    probes = streams.normal(PROBES, columns, like=images[0]).mT
    inside = T.mT @ torch.cat([y @ probes for y in Y], dim=-2).double()
    left_out = J._matmul(probes).double() - JV @ inside
    products = left_out.mT @ weigh(metric, left_out)
    spectrum = Spectrum.from_probes(values.clamp(min=0), products, (rows - kept.sum(-1)).double())
    finished = spectrum.contains_leading(k, noise**2)
    if request.stopping_rule is not None:
        finished &= request.stopping_rule(spectrum)

    if J is metric.jacobian:
        candidates = Y.combine(first_columns(T @ rotation, k)).mT
    else:
        candidates = first_columns(small_side, k).to(metric.dtype)
    return SolverResult(
        candidates=Candidates(candidates),
        small_side=small_side,
        spectrum=spectrum,
        iterations=torch.ones(batch, dtype=torch.long, device=metric.device),
        finished=finished,
        n_products=2 * Y.count + PROBES,
    )


def _sketch(metric: PullbackMetric, request: Request, streams: SampleStreams, rows: int) -> Tensor:
    """W, ``(B, m, p)`` float64, m the smaller side of J."""
    like = torch.empty(0, dtype=torch.float64, device=metric.device)
    if request.start is None:
        return streams.normal(rows, min(rows, 2 * request.k + 14), like=like)
    if request.start.shape[0] != rows:
        raise ValueError(f"the sketch has {request.start.shape[0]} rows; this metric's has {rows}")
    return request.start.to(like).expand(metric.shape[0], -1, -1)

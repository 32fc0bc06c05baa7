"""Single-pass Nyström approximation of the small side, from a random or a warm sketch."""

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .bidiagonalisation import SmallSide
from .golub_kahan import StoppingRule
from .records import PROBES, Candidates, Run, Spectrum, rounding
from .subspace import combined


def nystrom(
    metric: PullbackMetric,
    k: int,
    streams: SampleStreams,
    sketch: Tensor | None = None,
    enough: StoppingRule | None = None,
) -> Run:
    """Approximate K = JJᵀ by (KW)(WᵀKW)⁺(KW)ᵀ for p sketch vectors W: p VJPs and p JVPs.

    None of these products waits for another. The approximation is J P Jᵀ with P the projector onto
    the range of Y = JᵀW, so this is Rayleigh–Ritz on that range, and its eigenvectors are Y c
    (Halko, Martinsson & Tropp 2011, §5.5; Tropp, Yurtsever, Udell & Cevher 2017). With a weight M,
    W stands for MW, and ⟨a, b⟩ = aᵀMb. If J has more rows than columns, Jᵀ stands for J.

    Args:
        metric: ``(B, N, N)``.
        k: number of eigenvectors.
        streams: random vectors for the sketch and the probes.
        sketch: ``(m, p)``, m the smaller side of J: a subspace near the leading one, such as that
            of :class:`pullback.WarmStart`; random, with p = 2k + 14, if absent.
        enough: a further condition to count as finished, ``Spectrum → (B,) bool``.

    Returns:
        :class:`~pullback.eigen.records.Run`. ``finished`` is what the probes and ``enough`` say;
        residuals are known only after certification.

    Raises:
        ValueError: the metric has a weight and J more rows than columns, or the sketch has another
            length than the smaller side of J.
    """
    rows, columns = metric.jacobian.shape[-2:]
    wide = rows <= columns
    if not wide and metric.weight is not None:
        raise ValueError(
            "method='nystrom' takes a weighted metric only if the Jacobian has no more rows than "
            f"columns, got {rows}×{columns}; use method='dual'"
        )
    J = metric.jacobian if wide else metric.jacobian.mT
    batch, rows, columns = J.shape
    small = SmallSide(metric, batch, rows)
    like = torch.empty(0, dtype=metric.dtype, device=metric.device)
    if sketch is None:
        W = streams.normal(rows, min(rows, 2 * k + 14), like=like.double())
    elif sketch.shape[0] == rows:
        W = sketch.to(small.basis).expand(batch, -1, -1)
    else:
        raise ValueError(f"the sketch has {sketch.shape[0]} rows; this metric's has {rows}")
    MW = small.weigh(torch.linalg.qr(W)[0])
    # One vector after the other: no tensor has p vectors of N entries.
    Y = [J._t_matmul(w.to(metric.dtype)).mT for w in MW.split(1, dim=-1)]
    Z = torch.cat([J._matmul(y.mT) for y in Y], dim=-1).double()
    require_finite(Z, "the map's derivative is NaN or infinite")
    values, c = torch.linalg.eigh(_symmetric(MW.mT @ Z))
    floor = rounding((rows, columns), metric.dtype)
    # V = Yᵀ T is orthonormal; directions that rounding hides become columns of zeros.
    kept = (values > floor * values[:, -1:]) & (values > 0)
    T = c * torch.where(kept, values, torch.inf).rsqrt().unsqueeze(-2)
    JV = Z @ T
    ritz, rotation = torch.linalg.eigh(_symmetric(JV.mT @ small.weigh(JV)))
    ritz, rotation = ritz.flip(-1).clamp(min=0), rotation.flip(-1)

    probes = streams.normal(PROBES, columns, like=like).mT
    inside = T.mT @ torch.cat([y @ probes for y in Y], dim=-2).double()
    left_out = J._matmul(probes).double() - JV @ inside
    unresolved = (rows - kept.sum(-1)).double()
    spectrum = Spectrum.probed(ritz, left_out.mT @ small.weigh(left_out), unresolved)
    finished = spectrum.hides_nothing(k, floor**2)

    small_side = JV @ rotation
    padding = (0, max(0, k - len(Y)))
    if wide:
        coefficients = torch.nn.functional.pad((T @ rotation)[..., :k], padding)
        candidates = combined(Y, coefficients).mT
    else:
        candidates = torch.nn.functional.pad(small_side[..., :k], padding).to(metric.dtype)
    return Run(
        candidates=Candidates(candidates),
        small_side=small_side,
        spectrum=spectrum,
        iterations=torch.ones(batch, dtype=torch.long, device=metric.device),
        finished=finished if enough is None else finished & enough(spectrum),
        n_products=2 * len(Y) + PROBES,
    )


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2

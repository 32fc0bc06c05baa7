"""The leading eigenpairs, and all else that a bidiagonalisation learns of the spectrum."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .bidiagonalisation import Bidiagonalisation
from .records import Run, Spectrum, gathered

StoppingRule = Callable[[Spectrum], Tensor]

# Numbers in the inputs of a batch up to which products take as long for half of it.
_SMALL = 2**16


def golub_kahan(
    metric: PullbackMetric,
    k: int,
    tol: float,
    streams: SampleStreams,
    enough: StoppingRule | None = None,
    width: int = 1,
    max_basis: int | None = None,
    max_steps: int | None = None,
) -> Run:
    """Bidiagonalise J until the k largest eigenpairs of JᵀMJ are known, sample by sample.

    A sample stops when

    - its k leading Ritz pairs have residuals below tol times their gap (gaps count as λ/100 at
      least), and
    - nothing as large can have been overlooked: a Krylov space finds one vector of a repeated
      eigenvalue and cannot see that others are missing. Six Gaussian probes show, with
      probability 0.999, that no eigenvalue of λ_k is left out; or, after a restart from a
      random vector, a whole basis has brought no new one, and
    - ``enough(spectrum)`` says so, if given,

    or when V or U spans its space. A vanishing vector (the Krylov space is invariant) is replaced
    by a random one.

    Args:
        metric: ``(B, N, N)``.
        k: number of eigenpairs.
        tol: relative tolerance of eigenvectors.
        streams: random vectors for the starts and the probes.
        enough: a further condition, ``Spectrum → (B,) bool``; without restarts.
        width: vectors in a block. A block of b holds b vectors of a repeated eigenvalue, and its
            products can run together.
        max_basis: vectors of V kept for a sample before a restart leaves the best half of them;
            2k + 90 by default, unlimited with ``enough``, which asks for more of the spectrum than
            a restart keeps. It bounds the memory: so many vectors of N entries for each sample.
        max_steps: give up on samples that are not finished by then; ``finished`` tells.

    Raises:
        ValueError: the metric has a weight and J more rows than columns.
    """
    limit = min(metric.jacobian.shape[-2:])
    width = min(width, limit)
    if max_basis is None:
        max_basis = 2 * k + 90 if enough is None else limit
    capacity = min(limit, max(max_basis, k + 2 * width))
    # A vanishing vector of V is a column of zeros: there can be more columns than dimensions.
    most = max_steps or (2 if capacity == limit else 10) * limit
    process = Bidiagonalisation(metric, streams, width)
    found = torch.full_like(process.small.basis[:, 0, :1], torch.inf)
    samples, parts = torch.arange(metric.shape[0], device=metric.device), []
    next_check = min(-(-(k + 1) // width), most)
    for step in range(most + 1):
        size = process.H.shape[-1]
        full = size + width > capacity and capacity < limit
        spectrum = None
        if size >= limit:
            process.freeze((process.C == 0).flatten(1).all(1))
        elif full or step in (next_check, most):
            lead, accurate = _leading(process, k, tol)
            if accurate.any():
                spectrum = process.spectrum()
                finished = accurate & _complete(process, spectrum, lead, k, tol)
                if full:
                    finished |= accurate & ((lead - found).abs() <= tol * lead).all(-1)
                process.freeze(finished if enough is None else finished & enough(spectrum))
            # A check costs eigenvalues of H: an eighth of the steps at most may be superfluous.
            next_check = min(step + max(1, size // width // 8), most)
            if full and process.active.any():
                found = torch.where(accurate.unsqueeze(-1), lead, torch.inf)
                process.restart(k + (capacity - k) // 2, accurate & process.active)
        if step == most or not process.active.any():
            break
        if 2 * process.active.sum() <= len(samples) and process.next.numel() > width * _SMALL:
            # Products for the rest alone are cheaper.
            done, rest = (~process.active).nonzero()[:, 0], process.active.nonzero()[:, 0]
            seen = None if spectrum is None else spectrum.select(done)
            parts.append((samples[done], _outcome(process.select(done), k, seen)))
            process, samples, found = process.select(rest), samples[rest], found[rest]
        process.complete_step()
        process.half_step()
    return gathered([*parts, (samples, _outcome(process, k, spectrum))])


def _outcome(process: Bidiagonalisation, k: int, spectrum: Spectrum | None) -> Run:
    candidates, small_side = process.vectors(k)
    return Run(
        candidates=candidates,
        small_side=small_side,
        spectrum=process.spectrum() if spectrum is None else spectrum,
        iterations=process.steps,
        finished=~process.active,
        n_products=process.n_products,
    )


def _leading(process: Bidiagonalisation, k: int, tol: float) -> tuple[Tensor, Tensor]:
    """The k leading Ritz values ``(B, k)``, and whether their vectors are accurate, ``(B,)``."""
    values, residuals = process.ritz()
    lead, eps = values[:, :k], torch.finfo(process.dtype).eps
    padded = torch.nn.functional.pad(values, (0, 1))
    below = lead - padded[:, 1 : k + 1]
    above = torch.nn.functional.pad(below[:, :-1], (1, 0), value=torch.inf)
    gap = torch.minimum(below, above).clamp(min=0.01 * lead, max=lead)
    return lead, (residuals[:, :k] <= torch.maximum(tol * gap, 8 * eps * lead[:, :1])).all(1)


def _complete(
    process: Bidiagonalisation, spectrum: Spectrum, lead: Tensor, k: int, tol: float
) -> Tensor:
    """Whether none of the k leading eigenvalues is missing, ``(B,)`` bool."""
    eps = torch.finfo(process.dtype).eps
    # U has a block more than V, in which something larger may just have appeared.
    ahead = spectrum.values[:, : lead.shape[-1]] - lead
    behind = (ahead <= torch.maximum(tol * lead, 32 * eps * lead[:, :1])).all(-1)
    return behind & spectrum.hides_nothing(k, process.floor**2)

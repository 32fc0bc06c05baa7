"""The leading eigenpairs, and all else that a bidiagonalisation learns of the spectrum."""

import torch
from torch import Tensor

from ..operators import PullbackMetric
from ..products import small_batch
from ..sampling import SampleStreams
from .bidiagonalisation import Bidiagonalisation
from .hindsight import Hindsight
from .records import SolverResult, Spectrum, merge_samples, select_samples
from .request import Request


def golub_kahan(metric: PullbackMetric, request: Request, streams: SampleStreams) -> SolverResult:
    """Bidiagonalise J until the k largest eigenpairs of JᵀMJ are known, sample by sample.

    A sample stops when

    - its k leading Ritz pairs have residuals below tol·λ, and
    - nothing as large can have been overlooked: a Krylov space finds one vector of a repeated
      eigenvalue and cannot see that others are missing. Six Gaussian probes show, with
      probability 0.999, that no eigenvalue of λ_k is left out; or, after a restart from a
      random vector, a whole basis has brought no new one, and
    - the stopping rule says so, if there is one,

    or when V or U spans its space. A vanishing vector (the Krylov space is invariant) is replaced
    by a random one. A block of b holds b vectors of a repeated eigenvalue, and its products are
    taken together.

    ``max_basis`` bounds the memory: when V has so many vectors of N entries for each sample, a
    restart keeps the best half of them. It is 2k + 90 by default, and unlimited with a stopping
    rule, which asks for more of the spectrum than a restart keeps.

    Raises:
        ValueError: the metric has a weight and J more rows than columns.
    """
    k, limit = request.k, min(metric.jacobian.shape[-2:])
    width = min(request.block, limit)
    kept = request.max_basis
    if kept is None:
        kept = 2 * k + 90 if request.stopping_rule is None else limit
    capacity = min(limit, max(kept, k + 2 * width))
    # A vanishing vector of V is a column of zeros: there can be more columns than dimensions.
    most = request.max_steps or (2 if capacity == limit else 10) * limit
    process = Bidiagonalisation(metric, streams, width)
    # To look at a length costs nothing on a CPU; wider blocks look at other things as well.
    hindsight = Hindsight(trusting=width == 1 and metric.device.type != "cpu")
    found = torch.full((metric.shape[0], 1), torch.inf, dtype=torch.float64, device="cpu")
    samples, parts = torch.arange(metric.shape[0], device="cpu"), []
    next_check = min(-(-(k + 1) // width), most)
    for step in range(most + 1):
        size = process.blocks.count
        full = size + width > capacity and capacity < limit
        checking, spectrum = full or size >= limit or step in (next_check, most), None
        if checking:
            process = hindsight.look_back(process)

        # Stop the samples that know enough, and restart the others where V is full.
        if size >= limit:
            process.freeze((process.on_host()[1] == 0).flatten(1).all(1))
        elif checking:
            lead, accurate = _leading(process, request)
            if accurate.any():
                spectrum = process.spectrum(request.triplets)
                before = found if full else None
                finished = accurate & _is_enough(process, spectrum, lead, before, request)
                process.freeze(finished)
            # A check costs eigenvalues of H: an eighth of the steps at most may be superfluous.
            next_check = min(step + max(1, size // width // 8), most)
            if full and process.active.any():
                found = torch.where(accurate.unsqueeze(-1), lead, torch.inf)
                process.restart(k + (capacity - k) // 2, accurate & process.active)
        if step == most or not process.active.any():
            break

        # Go on with the rest alone, where its products are cheaper.
        large = process.next_block.numel() > width * small_batch(process.next_block.device)
        if large and 4 * process.active.sum() <= 3 * len(samples):
            done, rest = (~process.active).nonzero()[:, 0], process.active.nonzero()[:, 0]
            seen = None if spectrum is None else select_samples(spectrum, done)
            parts.append((samples[done], _result(process.select(done, to_go_on=False), k, seen)))
            process, samples, found = process.select(rest), samples[rest], found[rest]

        # J V = U H and JᵀM U = V Hᵀ + F Cᵀ, with V ← [V F] and U ← [U P].
        hindsight.trust(process)
        process.expand()
    return merge_samples([*parts, (samples, _result(process, k, spectrum))])


def _result(process: Bidiagonalisation, k: int, spectrum: Spectrum | None) -> SolverResult:
    candidates, small_side = process.candidates(k)
    return SolverResult(
        candidates=candidates,
        small_side=small_side,
        spectrum=process.spectrum() if spectrum is None else spectrum,
        iterations=process.steps,
        finished=~process.active,
        n_products=process.n_products,
    )


def _leading(process: Bidiagonalisation, request: Request) -> tuple[Tensor, Tensor]:
    """The k leading Ritz values ``(B, k)``, and whether their vectors are accurate, ``(B,)``."""
    if request.triplets:
        return _leading_triplets(process, request)
    values, residuals = process.ritz_values()
    k, eps = request.k, torch.finfo(process.dtype).eps
    lead = values[:, :k]
    accepted = torch.maximum(request.tol * lead, 8 * eps * lead[:, :1])
    return lead, (residuals[:, :k] <= accepted).all(1)


def _leading_triplets(process: Bidiagonalisation, request: Request) -> tuple[Tensor, Tensor]:
    """The same for singular triplets, by ‖JᵀM u − σv‖ = ‖Cᵀx‖, without a square of a small σ."""
    X, sigma, _ = process.svd()
    k, eps = request.k, torch.finfo(process.dtype).eps
    residuals = (process.on_host()[1].mT @ X[..., :k]).norm(dim=-2)
    accepted = torch.maximum(request.tol * sigma[:, :k], 8 * eps * sigma[:, :1])
    return sigma[:, :k].square(), (residuals <= accepted).all(1)


def _is_enough(
    process: Bidiagonalisation,
    spectrum: Spectrum,
    lead: Tensor,
    before: Tensor | None,
    request: Request,
) -> Tensor:
    """Whether none of the k leading eigenvalues is missing, nor anything else, ``(B,)`` bool.

    A whole basis that started from a random vector and left the values as they were ``before`` is
    as good as probes that see nothing.
    """
    tol, eps = request.tol, torch.finfo(process.dtype).eps
    # U has a block more than V, in which something larger may just have appeared.
    ahead = spectrum.values[:, : lead.shape[-1]] - lead
    enough = (ahead <= torch.maximum(tol * lead, 32 * eps * lead[:, :1])).all(-1)
    enough &= spectrum.contains_leading(request.k, process.rounding**2)
    if before is not None:
        enough |= ((lead - before).abs() <= tol * lead).all(-1)
    return enough if request.stopping_rule is None else enough & request.stopping_rule(spectrum)

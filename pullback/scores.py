"""All robustness scores of a batch of inputs from one run of an eigensolver."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .arguments import narrow, require_positive
from .eigen import EigenPairs, WarmStart
from .eigen.convergence import warn_of_doubts
from .eigen.derivatives import derive
from .eigen.driver import solve
from .eigen.records import Spectrum
from .eigen.request import Request, check_request
from .maps import leave_inference_mode
from .metrics import Encoder, expected_metric
from .products import library_call
from .sampling import Generator, SampleStreams, SeedCounter, as_generator
from .traces.spectra import ENTROPY_TOL, estimate_entropies, estimate_trace, is_entropy_accurate


@dataclass(frozen=True)
class Scores:
    """Scores of B inputs; λ₁ ≥ λ₂ ≥ … are the eigenvalues of their expected pullback metrics.

    A metric measures squared latent length per squared input length, and so do λ and the trace;
    entropies are in nats. Errors are standard errors, without rounding: 0 where the whole spectrum
    was computed.

    Attributes:
        eigenvalues: ``(B, k)``, descending.
        directions: ``(B, k, *event)``, the eigenvectors, of unit length.
        residual_norms: ``(B, k)``, ‖Gv − λv‖₂.
        converged: ``(B, k)`` bool, see :class:`pullback.EigenPairs`.
        spectral_radius: ``(B,)``, ρ = λ₁ (Khan & Storkey 2023, Eq. 8).
        trace, trace_error: ``(B,)``, T = Σλ, the squared length that a random input step of
            expected squared length N gains.
        entropy, entropy_error: ``(B,)``, −Σ p log p with p = λ/T, the von Neumann entropy of the
            density matrix G/T.
        entropy_none, entropy_none_error: ``(B,)``, −Σ λ log λ (Sec. 3.2 as printed).
        entropy_max, entropy_max_error: ``(B,)``, −Σ p log p with p = λ/λ₁ (the authors' code).
        effective_rank: ``(B,)``, exp(entropy) (Roy & Vetterli 2007); 0 for a zero metric.
        anisotropy: ``(B,)``, λ₁/T, between 1/rank and 1; 0 for a zero metric.
        log_volume: ``(B,)``, ½ Σ log λ over the k leading eigenvalues: the logarithm of the volume
            to which the encoder maps a unit cube along those directions; −∞ if k exceeds the rank.
        n_products: Jacobian products that a sample took, columns counted.
    """

    eigenvalues: Tensor
    directions: Tensor
    residual_norms: Tensor
    converged: Tensor
    spectral_radius: Tensor
    trace: Tensor
    trace_error: Tensor
    entropy: Tensor
    entropy_error: Tensor
    entropy_none: Tensor
    entropy_none_error: Tensor
    entropy_max: Tensor
    entropy_max_error: Tensor
    effective_rank: Tensor
    anisotropy: Tensor
    log_volume: Tensor
    n_products: int


@library_call
def score(
    encoder: Encoder,
    x: Tensor,
    k: int = 5,
    decoder: Encoder | None = None,
    generator: Generator | None = None,
    method: str = "auto",
    tol: float = 1e-4,
    warm_start: WarmStart | None = None,
    *,
    given: Sequence[Tensor] = (),
    entropy_tol: float = ENTROPY_TOL,
    differentiable: bool = False,
) -> Scores:
    """Spectral radius, trace, entropies and more of the pullback metric at each input.

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution.
        x: ``(B, *event)``, floating point; the metric is computed in its dtype.
        k: number of eigenpairs, 1 ≤ k ≤ N.
        decoder: if given, the metric is the combined one of Eq. 11.
        generator: seeds Krylov starts and probes; without one the seed is 0. A sample's scores
            depend on the seed and its position in the data, not on the batch size.
        method: as for :func:`pullback.eigsh`. ``"auto"`` takes the method that meets the tolerances
            with the fewest Jacobian products, by the cost model of
            :func:`pullback.eigen.expected_products`: ``"dual"`` for min(M, N) + 2k of them, M the
            number of the encoder's outputs, or ``"golub-kahan"`` for max(37, 9 + 5k) with a
            spectrum such as trained encoders have. A product costs about as much as a forward
            pass. Golub–Kahan and Nyström go on until ``entropy`` is known to ``entropy_tol``.
            ``"lanczos"`` and ``"lobpcg"`` look for k eigenpairs only, and the errors of trace and
            entropies say how little that tells.
        tol: as for :func:`pullback.eigsh`.
        warm_start: for ``"nystrom"``, ``"lanczos"`` and ``"lobpcg"``: what earlier batches of the
            same encoder have taught; learns from this one.
        given: further arguments of encoder and decoder for each sample, such as labels:
            ``(B, …)`` each, see :func:`pullback.expected_metric`.
        entropy_tol: the largest standard error, in nats, that ``entropy`` may have; those of the
            other two entropies are what comes of it. A larger one takes fewer products.
        differentiable: whether autograd shall know the derivatives of ``eigenvalues`` and of the
            scores (all that is ``(B,)`` and no error) with respect to x and to whatever encoder
            and decoder depend on. Values stay the same. It takes as many products more as there are
            known eigenvalues, and the memory of their graph. ``backward`` runs outside of the
            library, in the precision that PyTorch is set to: on a GPU, convolutions are in TF32
            unless ``torch.backends.cudnn.allow_tf32`` is off, and gradients are off by 1e-4.

    Returns:
        :class:`Scores`, not differentiable unless asked for. Then ∂λ = vᵀ(∂G)v, with the
        eigenvector v held, is exact where v is. Of repeated eigenvalues, only what is symmetric in
        them has a derivative, such as their sum, and that is right; each by itself gets one of its
        subgradients. Where the whole spectrum is computed (``method="dual"``), all derivatives are
        exact. Otherwise those of trace and entropies, and what is made of them, are estimates: six
        random probes see the derivative of what the solver has left of the trace, without bias,
        and the entropies take it to be shared as it is. A smaller ``entropy_tol`` leaves less; by
        ``"lanczos"`` and ``"lobpcg"`` all but k eigenvalues are left. A score that is 0 or −∞ for
        want of rank has the derivative of the eigenvalues above 0.

    Raises:
        TypeError, ValueError: see :func:`pullback.as_map` and :func:`pullback.eigsh`; and if the
            encoder's output is not finite for one of the inputs.

    Warns:
        RankWarning, ConvergenceWarning: see :func:`pullback.eigsh`.
    """
    metric = expected_metric(encoder, x, decoder, given=given)
    enough = partial(is_entropy_accurate, tol=require_positive("entropy_tol", entropy_tol))
    request = Request(k, method, tol, enough, warm_start=warm_start)
    request = check_request(metric, request)
    random = generator if isinstance(generator, SeedCounter) else as_generator(generator)
    streams = SampleStreams(len(x), random)
    probing = streams.apart() if differentiable else streams
    with torch.inference_mode():  # operations on small tensors take less time there
        found = solve(metric, request, streams)
    warn_of_doubts(found.pairs, tol, method)
    scores = _scores(found.pairs, found.spectrum, x.shape[1:])
    if not differentiable or not torch.is_grad_enabled():
        return scores
    derived = derive(metric, found, probing)
    n_products = scores.n_products + derived.n_products
    columns = {"eigenvalues": derived.values, **_columns(derived.values, derived.spectrum)}
    told = {
        name: WithDerivative.apply(getattr(scores, name), column.to(scores.eigenvalues))
        for name, column in columns.items()
        if not name.endswith("_error")
    }
    return replace(scores, n_products=n_products, **told)


class WithDerivative(torch.autograd.Function):
    """One value, with the derivative of another that is close to it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:  # noqa: ARG004
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        """Its derivative, all of which goes to the other."""
        return None, gradients[0]


def _columns(values: Tensor, spectrum: Spectrum) -> dict[str, Tensor]:
    """The scores ``(B,)`` of k eigenvalues ``(B, k)`` and of a spectrum, in float64 on the host."""
    values = values.cpu().double()
    total, largest = estimate_trace(spectrum), values[:, 0]
    entropies, some = estimate_entropies(spectrum), largest > 0
    columns = {
        "spectral_radius": largest,
        "trace": total.value,
        "trace_error": total.std_error,
        "effective_rank": entropies["trace"].value.exp() * some,
        "anisotropy": torch.where(some, largest / torch.where(some, total.value, 1.0), 0.0),
        "log_volume": 0.5 * torch.where(values > 0, values, 1.0).log().sum(-1),
    }
    columns["log_volume"] = columns["log_volume"].masked_fill((values <= 0).any(-1), -torch.inf)
    names = {"trace": "entropy", "none": "entropy_none", "max": "entropy_max"}
    for normalization, name in names.items():
        estimate = entropies[normalization]
        columns |= {name: estimate.value, f"{name}_error": estimate.std_error}
    return columns


def _scores(pairs: EigenPairs, spectrum: Spectrum, event_shape: torch.Size) -> Scores:
    # On the host, where all but the vectors is.
    device, columns = pairs.vectors.device, _columns(pairs.values, spectrum)
    narrowed = [narrow(column, pairs.values.dtype, name) for name, column in columns.items()]
    known = pairs.values, pairs.residual_norms, pairs.converged, torch.stack(narrowed)
    copies = [tensor.to(device, non_blocking=True) for tensor in known]
    eigenvalues, residual_norms, converged, narrow_columns = map(leave_inference_mode, copies)
    return Scores(
        eigenvalues=eigenvalues,
        directions=leave_inference_mode(pairs.vectors.mT.unflatten(-1, event_shape)),
        residual_norms=residual_norms,
        converged=converged,
        n_products=pairs.n_products,
        **dict(zip(columns, narrow_columns, strict=True)),
    )

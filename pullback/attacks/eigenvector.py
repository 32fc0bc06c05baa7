"""The attack of the paper: a step along an eigenvector of the expected pullback metric."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import require_integer, require_positive
from ..eigen.convergence import warn_of_doubts
from ..eigen.driver import find_pairs
from ..eigen.request import Request, check_request
from ..maps import as_map
from ..metrics import Encoder, expected_metric
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .attacked import AttackedEncoder, AttackedInputs
from .records import Perturbation
from .spheres import samplewise


class EigenAttack:
    """A step along the rank-th eigenvector v of the expected metric (Khan & Storkey 2023, Thm 3.2).

    To first order, no step of the same length moves the stacked code [μ; σ] further than one along
    the first eigenvector, by √λ₁ per unit of length. An eigenvector has no sign: both are tried,
    and the one that moves the mean further, after clipping, is taken; v itself, whose largest
    entry is positive, if they are equal up to rounding.

    The metric knows nothing of ``clip``. Where many values are at a border of the range, as in
    images with a black background, clipping takes away part of the step, and :class:`PGDAttack`,
    which shifts its budget to the other values, goes further even for small steps.

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution. What is declared once, by ``pb.as_map``, is validated and captured once.
        rank: 1 for the largest eigenvalue, 2 for the next, up to N.
        eps: the step is ±eps·v, of norm eps, in units of the input.
        delta: the step is ±delta·λ·v, as the paper prints it (Eq. 5–7). Its norm grows with λ, so
            that two encoders at the same delta are not attacked with the same budget. Exactly one
            of eps and delta must be given.
        decoder: if given, v belongs to the combined metric of Eq. 11.
        clip: the range of valid inputs, such as ``(0, 1)``: the perturbed inputs are clipped to it.
        reconstruct: a decoder whose mean ``reconstruction_error`` is computed with; it has no part
            in the attack. Without it, that is ``decoder``, if given.
        method, tol: as for :func:`pullback.eigsh`.

    Raises:
        TypeError, ValueError: an argument is not of the kind described.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        rank: int = 1,
        eps: float | None = None,
        delta: float | None = None,
        decoder: Encoder | None = None,
        clip: Sequence[float] | None = None,
        reconstruct: Encoder | None = None,
        method: str = "auto",
        tol: float = 1e-4,
    ) -> None:
        _check_budget(eps, delta)
        self.rank = require_integer("rank", rank, 1)
        self.eps, self.delta, self.method, self.tol = eps, delta, method, tol
        self.decoder = None if decoder is None else as_map(decoder)
        self.attacked = AttackedEncoder(
            encoder, clip, self.decoder if reconstruct is None else reconstruct
        )

    @library_call
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        given: Sequence[Tensor] = (),
    ) -> Perturbation:
        """Attack a batch.

        Args:
            x: ``(B, *event)``, floating point, within ``clip``.
            generator: seeds all random numbers; without one the seed is 0. The result for a sample
                depends on the seed and its position in the data, not on the batch size.
            given: further arguments of encoder and decoders for each sample, such as labels:
                ``(B, …)`` each, see :func:`pullback.expected_metric`.

        Returns:
            :class:`Perturbation`, not differentiable; ``n_products`` has the Jacobian products of
            :class:`pullback.EigenPairs` and two forward passes, one for each sign.

        Raises:
            TypeError, ValueError: see :meth:`pullback.Map.check` and :func:`pullback.eigsh`; if an
                input lies outside of ``clip``, or the rank is greater than N.

        Warns:
            RankWarning: the rank is above that of the metric; λ is then 0, and so is the step
                delta·λ·v.
            ConvergenceWarning: see :func:`pullback.eigsh`.
        """
        generator = as_generator(generator)
        inputs = self.attacked.attack(x, given)
        require_integer("rank", self.rank, 1, inputs.x[0].numel(), "N")
        streams = SampleStreams(len(x), generator)
        request = Request(self.rank, self.method, self.tol)
        value, vector, n_products = eigenpair(inputs, request, streams, self.decoder)
        step = vector
        if self.eps is not None:
            step = self.eps * vector
        elif self.delta is not None:
            step = samplewise(self.delta * value, vector) * vector
        return inputs.result(inputs.signed(step), n_products + 2)


def eigenpair(
    inputs: AttackedInputs, request: Request, streams: SampleStreams, decoder: Encoder | None = None
) -> tuple[Tensor, Tensor, int]:
    """The k-th eigenvalue ``(B,)``, its unit vector ``(B, *event)``, and products per sample."""
    metric = expected_metric(inputs.encoder, inputs.x, decoder, given=inputs.given)
    pairs = find_pairs(metric, check_request(metric, request), streams)
    warn_of_doubts(pairs, request.tol, request.method)
    return pairs.values[:, -1], pairs.vectors[..., -1].reshape(inputs.x.shape), pairs.n_products


def _check_budget(eps: float | None, delta: float | None) -> None:
    if (eps is None) == (delta is None):
        raise ValueError(
            "exactly one of eps, the norm of the step, and delta, its length in units of λ, must "
            f"be given; got eps={eps!r} and delta={delta!r}"
        )
    if eps is not None:
        require_positive("eps", eps)
    if delta is not None:
        require_positive("delta", delta)

"""Projected gradient ascent on the latent distance itself, with restarts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import require_choice, require_integer, require_positive
from ..eigen.request import Request
from ..metrics import Encoder
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .attacked import AttackedEncoder, AttackedInputs
from .eigenvector import eigenpair
from .records import Perturbation
from .spheres import into_ball, normalized, random_points, samplewise

STARTS = ("random", "eigenvector")


class PGDAttack:
    """Maximise ‖μ(x + η) − μ(x)‖₂ over ‖η‖₂ ≤ eps (Khan & Storkey 2023, Eq. 2).

    Projected gradient ascent, as Kuzina, Welling & Tomczak (2022), "Alleviating adversarial attacks
    on variational autoencoders with MCMC", attack encoders: steps along the normalised gradient,
    each followed by the projection onto the ball and by clipping. At η = 0 the gradient of the
    distance vanishes, so ascents start at random points of the ball, mirrored in each coordinate
    in which clipping would leave less. The best iterate of all ascents is kept, sample by sample;
    of two ascents equal up to rounding, the first.

    Args:
        encoder, eps, clip, reconstruct: as for :class:`EigenAttack`.
        steps: of one ascent.
        step_size: length of the first step, in units of eps; from there, lengths fall linearly, to
            step_size/steps.
        restarts: how many ascents.
        start: where the first ascent starts: ``"random"``, as the others do, or ``"eigenvector"``,
            at the step of :class:`EigenAttack`, so that the result is no worse.

    Raises:
        TypeError, ValueError: as for :class:`EigenAttack`; and if there are no steps or restarts,
            or the start is none of the two.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        eps: float,
        steps: int = 50,
        step_size: float = 2.0,
        restarts: int = 5,
        start: str = "random",
        clip: Sequence[float] | None = None,
        reconstruct: Encoder | None = None,
    ) -> None:
        self.eps = require_positive("eps", eps)
        self.steps = require_integer("steps", steps, 1)
        self.step_size = require_positive("step_size", step_size)
        self.restarts = require_integer("restarts", restarts, 1)
        self.start = require_choice("start", start, STARTS)
        self.attacked = AttackedEncoder(encoder, clip, reconstruct)

    @library_call
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        given: Sequence[Tensor] = (),
    ) -> Perturbation:
        """Attack a batch ``(B, *event)``; see :meth:`EigenAttack.__call__`.

        ``n_products`` is restarts·(2·steps + 1): a gradient for each step, and the distance of the
        last iterate; and what :class:`EigenAttack` takes, if it is the start.
        """
        generator = as_generator(generator)
        inputs = self.attacked.attack(x, given)
        streams = SampleStreams(len(x), generator)
        n_products = self.restarts * (2 * self.steps + 1)
        first = None
        if self.start == "eigenvector":
            _, vector, found_in = eigenpair(inputs, Request(k=1), streams)
            first = inputs.signed(self.eps * vector)
            n_products += found_in + 2

        best = inputs.x.new_full((len(x),), -1.0), torch.zeros_like(inputs.x)
        for restart in range(self.restarts):
            step = first if restart == 0 else None
            if step is None:
                step = inputs.inward(self.eps * random_points(streams, inputs.x))
            best = _further(best, self._ascent(inputs, step), inputs.tie)
        return inputs.result(best[1], n_products)

    def _ascent(self, inputs: AttackedInputs, step: Tensor) -> tuple[Tensor, Tensor]:
        """The largest displacement ``(B,)`` on the way up from a step, and where it was."""
        best = inputs.x.new_full((len(step),), -1.0), step
        for i in range(self.steps):
            displacement, gradient = inputs.ascent(step)
            best = _further(best, (displacement, step))
            length = self.eps * self.step_size * (1 - i / self.steps)
            # What clipping took from a step is lost: the next one starts at the clipped input.
            step = inputs.moved(step) - inputs.x + length * normalized(gradient)
            step = into_ball(step, self.eps)
        return _further(best, (inputs.displacement(step), step))


Iterate = tuple[Tensor, Tensor]


def _further(best: Iterate, other: Iterate, margin: float = 0.0) -> Iterate:
    """Of two displacements and their steps, the larger, sample by sample."""
    better = other[0] > best[0] * (1 + margin)
    steps = torch.where(samplewise(better, best[1]), other[1], best[1])
    return torch.where(better, other[0], best[0]), steps

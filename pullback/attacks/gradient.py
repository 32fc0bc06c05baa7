"""Gradient ascent on ‖Jη‖: the eigenvector, found the way of first-order methods."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import require_integer, require_positive
from ..metrics import Encoder, jacobian
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .attacked import AttackedEncoder
from .records import Perturbation
from .spheres import normalized, random_directions


class GradientAttack:
    """Projected gradient ascent on ‖Jη‖₂ over the sphere ‖η‖₂ = eps.

    The objective is that of Kuzina, Welling & Tomczak (2021), "Diagnosing vulnerability of
    variational auto-encoders to adversarial attacks", with J the Jacobian of [μ; σ], so that the
    optimum is the first eigenvector of G = JᵀJ. From a random direction u, steps
    u ← normalize(u + step_size·Gu/‖Gu‖) are taken; each is one of the power method with G shifted
    by ‖Gu‖/step_size, so ‖Ju‖ never falls and the last iterate is the best. The sign is chosen as
    for :class:`EigenAttack`.

    Args:
        encoder, eps, clip, reconstruct: as for :class:`EigenAttack`.
        steps: how many; each takes one Jv and one Jᵀu.
        step_size: in units of eps. The larger, the faster it converges, up to the power method.

    Raises:
        TypeError, ValueError: as for :class:`EigenAttack`; and if there are no steps.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        eps: float,
        steps: int = 50,
        step_size: float = 10.0,
        clip: Sequence[float] | None = None,
        reconstruct: Encoder | None = None,
    ) -> None:
        self.eps = require_positive("eps", eps)
        self.steps = require_integer("steps", steps, 1)
        self.step_size = require_positive("step_size", step_size)
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

        ``n_products`` is 2·steps, and two forward passes for the signs.
        """
        generator = as_generator(generator)
        inputs = self.attacked.attack(x, given)
        J = jacobian(inputs.encoder, inputs.x, given=inputs.given)
        u = random_directions(SampleStreams(len(x), generator), inputs.x).flatten(1).unsqueeze(-1)
        for _ in range(self.steps):
            # Along Gu; between its two products a length is taken out that may have no place.
            u = normalized(u + self.step_size * normalized(J.mT @ normalized(J @ u)))
        step = self.eps * u.reshape(inputs.x.shape)
        return inputs.result(inputs.signed(step), 2 * self.steps + 2)

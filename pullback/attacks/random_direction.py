"""Random directions: how far a code moves when nobody aims."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import require_positive
from ..metrics import Encoder
from ..sampling import SampleStreams, as_generator
from .records import Perturbation
from .spheres import random_directions
from .victim import Victim


class RandomAttack:
    """A step of norm eps in a direction that is uniform on the sphere; takes no products.

    On average over directions, its squared latent distance is eps²·tr(J_μᵀJ_μ)/N to first order.

    Args:
        encoder, eps, clip, reconstruct: as for :class:`EigenAttack`.

    Raises:
        TypeError, ValueError: as for :class:`EigenAttack`.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        eps: float,
        clip: Sequence[float] | None = None,
        reconstruct: Encoder | None = None,
    ) -> None:
        self.eps = require_positive("eps", eps)
        self.victim = Victim(encoder, clip, reconstruct)

    @torch.no_grad()
    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Perturbation:
        """Attack a batch ``(B, *event)``; see :meth:`EigenAttack.__call__`."""
        generator = as_generator(generator)
        target = self.victim.at(x)
        direction = random_directions(SampleStreams(len(x), generator), target.x)
        return target.result(self.eps * direction, 0)

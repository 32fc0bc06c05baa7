"""Random directions: how far a code moves when nobody aims."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import require_positive
from ..metrics import Encoder
from ..products import library_call
from ..sampling import SampleStreams, as_generator
from .attacked import AttackedEncoder
from .records import Perturbation
from .spheres import random_directions


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
        self.attacked = AttackedEncoder(encoder, clip, reconstruct)

    @library_call
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        *,
        given: Sequence[Tensor] = (),
    ) -> Perturbation:
        """Attack a batch ``(B, *event)``; see :meth:`EigenAttack.__call__`."""
        generator = as_generator(generator)
        inputs = self.attacked.attack(x, given)
        direction = random_directions(SampleStreams(len(x), generator), inputs.x)
        return inputs.result(self.eps * direction, 0)

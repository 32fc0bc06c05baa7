"""The encoder under attack: what a step from given inputs does to their latent codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import require_finite
from ..maps import Map, as_map, leave_inference_mode
from ..metrics import Encoder
from ..products.double_backward import double_backward_settings
from .checks import check_clip, check_inside
from .records import Perturbation
from .spheres import norms, samplewise

_NOT_FINITE = "the encoder's mean holds NaN or infinite values"


class AttackedEncoder:
    """An encoder under attack, the range of its inputs and, if known, the decoder's mean.

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution.
        clip: the range of valid inputs, (low, high), or None for all numbers.
        reconstruct: the decoder, likewise; its mean shows what a perturbed code decodes to.

    Raises:
        TypeError, ValueError: see :func:`pullback.as_map`; and if clip is no increasing pair.
    """

    def __init__(
        self, encoder: Encoder, clip: Sequence[float] | None, reconstruct: Encoder | None
    ) -> None:
        self.clip = check_clip(clip)
        self.encoder = as_map(encoder)
        self.decoder = None if reconstruct is None else as_map(reconstruct)

    @torch.no_grad()
    def attack(self, x: Tensor, given: Sequence[Tensor]) -> "AttackedInputs":
        """Inputs, ``(B, *event)``, and what is given with them, ``(B, …)`` each, to be attacked.

        Raises:
            TypeError, ValueError: see :meth:`pullback.Map.check`; an input lies outside of the
                range, or the decoder does not return an input's number of values.
        """
        self.encoder.check(x, given)
        check_inside(x, self.clip)
        x = leave_inference_mode(x).detach()
        given = tuple(leave_inference_mode(tensor).detach() for tensor in given)
        code = self.encoder(x, *given)[0]
        require_finite(code, _NOT_FINITE)
        if self.decoder is not None:
            shape = self.decoder.check(code, given).mean_shape
            if shape.numel() != x[0].numel():
                raise ValueError(
                    f"the decoder's mean has shape {tuple(shape)} for one sample; "
                    f"an input has shape {tuple(x.shape[1:])}"
                )
        return AttackedInputs(x, given, code.flatten(1), self)


@dataclass(frozen=True)
class AttackedInputs:
    """Inputs under attack. Steps are ``(B, *event)`` throughout, before clipping.

    Attributes:
        x: ``(B, *event)``.
        given: further arguments of encoder and decoder, ``(B, …)`` each.
        code: ``(B, d)``, μ(x).
        attacked: the encoder under attack.
    """

    x: Tensor
    given: tuple[Tensor, ...]
    code: Tensor
    attacked: AttackedEncoder

    @property
    def encoder(self) -> Map:
        """The map under attack."""
        return self.attacked.encoder

    @property
    def tie(self) -> float:
        """Relative difference up to which two displacements count as equal, as rounding decides."""
        return torch.finfo(self.x.dtype).eps ** 0.5

    def moved(self, step: Tensor) -> Tensor:
        """x_c = clip(x + η)."""
        moved = self.x + step
        return moved if self.attacked.clip is None else moved.clamp(*self.attacked.clip)

    def displacement(self, step: Tensor) -> Tensor:
        """‖μ(x_c) − μ(x)‖₂, ``(B,)``; one forward pass."""
        return self._displacement(self.moved(step))

    def _displacement(self, moved: Tensor) -> Tensor:
        code = self.encoder(moved, *self.given)[0].flatten(1)
        require_finite(code, f"{_NOT_FINITE} after a step")
        return norms(code - self.code)

    def ascent(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """The displacement, and its gradient with respect to x_c, ``(B, *event)``; two passes."""
        with double_backward_settings():  # one derivative, but cuDNN has none in eval mode
            moved = self.moved(step).requires_grad_()
            displacement = self._displacement(moved)
            (gradient,) = torch.autograd.grad(displacement.sum(), moved)
        return displacement.detach(), gradient

    def signed(self, step: Tensor) -> Tensor:
        """η or −η, whichever displaces the code further; η in a tie. Two passes."""
        there, back = self.displacement(step), self.displacement(-step)
        return torch.where(samplewise(back > there * (1 + self.tie), step), -step, step)

    def inward(self, step: Tensor) -> Tensor:
        """The step with the sign of each entry such that clipping leaves most of it."""
        there, back = (self.moved(sign * step) - self.x for sign in (1, -1))
        return torch.where(back.abs() > there.abs(), -step, step)

    def result(self, step: Tensor, n_products: int) -> Perturbation:
        """The record of a step that took so many passes to find."""
        moved = self.moved(step)
        code, decoder, error = self.encoder(moved, *self.given)[0], self.attacked.decoder, None
        require_finite(code, f"{_NOT_FINITE} after a step")
        if decoder is not None:
            misfit = decoder(code, *self.given)[0].flatten(1) - self.x.flatten(1)
            error = misfit.square().mean(1)
        return Perturbation(
            x=moved,
            step=step,
            norm=norms(step),
            clipped_norm=norms(moved - self.x),
            latent_distance=norms(code.flatten(1) - self.code),
            reconstruction_error=error,
            n_products=n_products,
        )

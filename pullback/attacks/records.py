"""What every attack returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Perturbation:
    """A step η from each of B inputs, and what it does; tensors have the dtype of the inputs.

    With x_c = clip(x + η), or x + η where nothing is clipped:

    Attributes:
        x: ``(B, *event)``, the perturbed inputs x_c.
        step: ``(B, *event)``, η, before clipping.
        norm: ``(B,)``, ‖η‖₂, in units of the input.
        clipped_norm: ``(B,)``, ‖x_c − x‖₂.
        latent_distance: ``(B,)``, ‖μ(x_c) − μ(x)‖₂, in units of the latent code.
        reconstruction_error: ``(B,)``, the mean over an event of (g(μ(x_c)) − x)², g the decoder's
            mean and x the original input; None if no decoder is known.
        n_products: passes through the encoder that finding η took, per sample: a forward pass, a
            Jv and a Jᵀu count as one each, so a gradient counts as two. The evaluation of the
            result is not counted: it is the same for all attacks.
    """

    x: Tensor
    step: Tensor
    norm: Tensor
    clipped_norm: Tensor
    latent_distance: Tensor
    reconstruction_error: Tensor | None
    n_products: int

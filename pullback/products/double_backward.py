"""J v and Jᵀ u by autograd, for whatever it can differentiate twice."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..arguments import require_finite
from .blocks import MAX_BLOCK, by_blocks
from .precision import float32_proper

NOT_FINITE = "the map returned NaN or infinite values"


class AutogradLinearization:
    """The derivative J of ``function`` at ``x``, for a batch of independent samples.

    One forward pass is run and its graph kept. Jᵀu differentiates it backwards. Jv differentiates
    Jᵀu, which is linear in u, backwards once more (the double-backward trick of J. Townsend, "A new
    trick for calculating Jacobian vector products", 2017), so every layer with a second
    derivative works, whether or not it has a forward-mode formula.

    Args:
        function: ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``, the base point.
        differentiable: keep the graph of the products too, so that they can be differentiated
            with respect to x and whatever else ``function`` depends on.

    Raises:
        ValueError: ``function`` returned NaN or infinite values.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], x: Tensor, differentiable: bool = False
    ) -> None:
        self._differentiable = differentiable
        # Fused attention kernels cannot be differentiated twice; the plain one can.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            float32_proper(x.device),
        ):
            if differentiable:
                self._x = x if x.requires_grad else x.detach().requires_grad_()
            else:
                self._x = x.detach().clone().requires_grad_()
            self._y = function(self._x)
        require_finite(self._y, NOT_FINITE)
        # Jᵀu as a function of u, for `jvp`; made when first needed.
        self._u: Tensor | None = None
        self._transposed: Tensor | None = None

    def restricted(self, index: slice | Tensor) -> None:  # noqa: ARG002
        """Autograd's graph of a batch is that of all of its samples."""
        return

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""
        return self._columnwise(self._y, self._x, u)

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""
        if self._u is None or self._transposed is None:
            with torch.inference_mode(False), torch.enable_grad():
                self._u = torch.zeros_like(self._y).requires_grad_()
                (self._transposed,) = torch.autograd.grad(
                    self._y, self._x, self._u, create_graph=True, materialize_grads=True
                )
        return self._columnwise(self._transposed, self._u, v)

    def _columnwise(self, outputs: Tensor, inputs: Tensor, columns: Tensor) -> Tensor:
        """The vector-Jacobian product of ``outputs`` with respect to ``inputs``, by column."""
        if not outputs.requires_grad:
            # A map that does not use its input, or a product that no longer depends on u.
            return inputs.new_zeros(*inputs.shape, columns.shape[-1])
        width = max(1, MAX_BLOCK // max(inputs.numel(), outputs.numel()))
        return by_blocks(lambda block: self._block(outputs, inputs, block), columns, width, inputs)

    def _block(self, outputs: Tensor, inputs: Tensor, block: Tensor) -> Tensor:
        several = len(block) > 1
        with torch.inference_mode(False), torch.enable_grad(), float32_proper(block.device):
            (product,) = torch.autograd.grad(
                outputs,
                inputs,
                (block if several else block[0]).contiguous(),
                retain_graph=True,
                create_graph=self._differentiable,
                is_grads_batched=several,
                allow_unused=True,
            )
        if product is None:  # outputs do not depend on inputs after all
            return inputs.new_zeros(len(block), *inputs.shape)
        return product if several else product.unsqueeze(0)

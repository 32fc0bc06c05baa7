"""What is refused within a transform of ``torch.func``, and how one is told."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Private in PyTorch: without it, PyTorch's own words on transforms have to do.
innermost_transform: Callable[[], object] = getattr(
    getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None
)


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` (grad, jvp, vmap, …) is at work."""
    return innermost_transform() is not None


def refuse_transforms(*tensors: Tensor) -> None:
    """Raise a RuntimeError within a transform of ``torch.func``, which says what to write.

    So do ``tensors`` with a tangent of forward-mode differentiation, which would get lost.
    """
    dual = any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    if dual or in_transform():
        raise RuntimeError(
            "transforms of torch.func (grad, jvp, vmap, …) and tangents of forward mode do not "
            "reach through an encoder's Jacobian: for gradients write torch.autograd.grad(f(x), x, "
            "create_graph=True) with x.requires_grad_(), and instead of vmap give the whole batch"
        )

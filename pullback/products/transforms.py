"""What is refused within a transform of ``torch.func``, and how one is told."""

from collections.abc import Callable

import torch

# Private in PyTorch: without it, PyTorch's own words on transforms have to do.
innermost_transform: Callable[[], object] = getattr(
    getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None
)


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` (grad, jvp, vmap, …) is at work."""
    return innermost_transform() is not None


def refuse_transforms() -> None:
    """Raise a RuntimeError within a transform of ``torch.func``, which says what to write."""
    if in_transform():
        raise RuntimeError(
            "transforms of torch.func (grad, jvp, vmap, …) do not reach through an encoder's "
            "Jacobian: for gradients write torch.autograd.grad(f(x), x, create_graph=True) with "
            "x.requires_grad_(), and instead of vmap give the whole batch"
        )

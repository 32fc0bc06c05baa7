"""J v and Jᵀ u by autograd, for whatever it can differentiate twice."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import batch_norm, group_norm, hardsigmoid, instance_norm
from torch.overrides import TorchFunctionMode

from ..arguments import require_finite
from .blocks import by_blocks
from .devices import max_block
from .precision import SharedContext, full_precision

NOT_FINITE = "the map returned NaN, infinite values or a negative std"


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
        self._differentiable, self._batched = differentiable, True
        with double_backward_settings():
            if differentiable and x.requires_grad:
                self._x = x.contiguous()
            else:
                self._x = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            self._y = function(self._x)
        require_finite(self._y, NOT_FINITE)
        # Jᵀu as a function of u, for `jvp`; made when first needed.
        self._u: Tensor | None = None
        self._transposed: Tensor | None = None

    @property
    def y(self) -> Tensor:
        """f(x), ``(B, M)``."""
        return self._y.detach()

    def restrict(self, index: slice | Tensor) -> None:  # noqa: ARG002
        """Nothing: autograd's graph of a batch is that of all of its samples."""
        return

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""
        return self._pull(self._y, self._x, u)

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""
        if self._u is None or self._transposed is None:
            with double_backward_settings():
                # At 0, some backward formulas have no derivative: that of logcumsumexp takes log u.
                u = torch.ones_like(self._y).requires_grad_()
                (self._transposed,) = torch.autograd.grad(
                    self._y, self._x, u, create_graph=True, materialize_grads=True
                )
                self._u = u
        return self._pull(self._transposed, self._u, v)

    def _pull(self, outputs: Tensor, inputs: Tensor, columns: Tensor) -> Tensor:
        """The vector-Jacobian product of ``outputs`` with respect to ``inputs``, by column."""
        if not outputs.requires_grad:
            # A map that does not use its input, or a product that no longer depends on u.
            return inputs.new_zeros(*inputs.shape, columns.shape[-1])
        width = max(1, max_block(inputs.device) // max(inputs.numel(), outputs.numel()))

        def product(block: Tensor) -> Tensor:
            if len(block) > 1 and self._batched:
                try:
                    return self._differentiate(outputs, inputs, block, is_grads_batched=True)
                except RuntimeError:  # some backward formulas cannot be batched: column by column
                    self._batched = False
            products = [self._differentiate(outputs, inputs, column) for column in block]
            return torch.stack(products)

        with double_backward_settings():
            return by_blocks(product, columns, width, inputs)

    def _differentiate(
        self, outputs: Tensor, inputs: Tensor, vectors: Tensor, is_grads_batched: bool = False
    ) -> Tensor:
        (product,) = torch.autograd.grad(
            outputs,
            inputs,
            vectors.contiguous(),
            retain_graph=True,
            create_graph=self._differentiable,
            is_grads_batched=is_grads_batched,
            allow_unused=True,
        )
        if product is None:  # outputs do not depend on inputs after all
            return inputs.new_zeros(*vectors.shape[: vectors.ndim - outputs.ndim], *inputs.shape)
        return product


@contextmanager
def double_backward_settings() -> Iterator[None]:
    """Where a function runs that is to be differentiated twice, by autograd in full precision.

    Attention and recurrent layers take the plain kernels, as the fused ones and those of cuDNN have
    no second derivative; what torch.compile has made has none either, and runs as it was written.
    What has none in PyTorch, or a wrong one, is computed from operations that have; no layer
    refuses a batch of one.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _PLAIN_ATTENTION,
        _UNCOMPILED,
        full_precision(),
        ReplacedFunctions(_REPLACED),
    ):
        yield


class ReplacedFunctions(TorchFunctionMode):
    """PyTorch's functions replaced by others, wherever they are called."""

    def __init__(self, replaced: dict[Callable[..., Any], Callable[..., Any]]) -> None:
        super().__init__()
        self._replaced = replaced

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    result = (input + 3).clamp(0, 6) / 6
    return input.copy_(result) if inplace else result


def _group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Of groups of one value as well, which PyTorch refuses in a batch of one sample only."""
    return torch.group_norm(input, num_groups, weight, bias, eps)


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """In eval mode, the affine map that it is, whose derivatives are simple.

    PyTorch (2.13, on a CPU) computes its derivatives wrongly for one image and gradients in the
    layout of tokens.
    """
    if training or running_mean is None or running_var is None:
        return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = -1, *[1] * (input.ndim - 2)
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


def _instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """With statistics of the input, in simple operations.

    PyTorch (2.13, on a CPU) computes its derivatives wrongly for gradients in channels-last layout.
    """
    if not use_input_stats or running_mean is not None:
        return instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    batched = input.ndim > 2
    dims = tuple(range(2, input.ndim)) if batched else (1,)
    variance, mean = torch.var_mean(input, dims, correction=0, keepdim=True)
    result = (input - mean) * (variance + eps).rsqrt()
    shape = -1, *[1] * len(dims)
    result = result if weight is None else result * weight.view(shape)
    return result if bias is None else result + bias.view(shape)


def _without_cudnn(layer: Callable[..., Any]) -> Callable[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> Any:
        with _NO_CUDNN:
            return layer(*args, **kwargs)

    return plain


@contextmanager
def _switch_off_cudnn() -> Iterator[None]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


@contextmanager
def _leave_uncompiled() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes seconds
        yield
        return
    try:
        stance = torch.compiler.set_stance("force_eager")
    except RuntimeError:  # the user compiles what calls us
        yield
        return
    with stance:
        yield


_UNCOMPILED = SharedContext(_leave_uncompiled)
_NO_CUDNN = SharedContext(_switch_off_cudnn)
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    batch_norm: _batch_norm,
    group_norm: _group_norm,
    hardsigmoid: _hardsigmoid,
    instance_norm: _instance_norm,
    **{layer: _without_cudnn(layer) for layer in _RECURRENT},
}
_PLAIN_ATTENTION = SharedContext(lambda: sdpa_kernel(SDPBackend.MATH))

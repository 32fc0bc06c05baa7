"""J v and Jᵀ u of a function at a base point; the primal work is done once."""

import copy
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checks import require_finite
from .memory import Recent
from .precision import float32_proper
from .replay import Product, Saved
from .tracing import Trace, Traces

# Columns are taken together as long as one product's vectors stay under this many numbers:
# enough to keep two cores busy, and less than one N×N matrix of an image worth the name.
MAX_BLOCK = 2**19
_NOT_FINITE = "the map returned NaN or infinite values"


class Linearization:
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
        require_finite(self._y, _NOT_FINITE)
        # Jᵀu as a function of u, for `jvp`; made when first needed.
        self._u: Tensor | None = None
        self._transposed: Tensor | None = None

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
        return _by_blocks(lambda block: self._block(outputs, inputs, block), columns, width, inputs)

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


class TracedLinearization:
    """The same from a :class:`~pullback.tracing.Trace`, at about one forward pass a product."""

    def __init__(
        self, trace: Trace, x: Tensor, shared: Sequence[Tensor], samplewise: Sequence[Tensor]
    ) -> None:
        self._trace, self._x = trace, x
        self.y, *saved = trace.primal(x, shared, samplewise)
        self._saved = list(map(Saved, saved))

    def restricted(self, index: slice | Tensor) -> "TracedLinearization | None":
        """That of some of the samples, without primal work; None if it has to be made anew."""
        chosen = copy.copy(self)
        chosen._x, chosen.y = self._x[index], self.y[index]
        saved = self._trace.restricted(self._saved, index, len(chosen.y) - len(self.y))
        if saved is None:
            return None
        chosen._saved = saved
        return chosen

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""
        return self._columnwise(self._trace.vjp, self._saved[1], u, self._x)

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""
        return self._columnwise(self._trace.jvp, self._saved[0], v, self.y)

    def _columnwise(self, product: Product, saved: Saved, columns: Tensor, like: Tensor) -> Tensor:
        width = max(1, MAX_BLOCK // max(self._x.numel(), self.y.numel()))
        with torch.no_grad(), float32_proper(columns.device):
            return _by_blocks(lambda block: product(saved, block), columns, width, like)


AnyLinearization = Linearization | TracedLinearization


def linearize(
    function: Callable[..., Tensor],
    x: Tensor,
    shared: Sequence[Tensor],
    samplewise: Sequence[Tensor],
    key: Hashable,
    traces: Traces,
) -> AnyLinearization:
    """The derivative of ``function(x, *shared, *samplewise)`` at x, traced if that can be done.

    A trace knows nothing of attributes in Python that the function reads. So the function is also
    called as it is, for the first and the last sample: if the trace returns something else, it is
    made anew.

    Args:
        function: ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``.
        shared, samplewise: further tensors that it depends on; the latter are ``(B, …)``.
        key: what else a trace depends on.
        traces: where those made earlier are kept.

    Raises:
        ValueError: ``function`` returned NaN or infinite values.
    """
    # Not in inference mode: neither tracing nor what the function may keep for later would work.
    with torch.inference_mode(False), torch.no_grad(), float32_proper(x.device):
        ends = [0, len(x) - 1]
        few = function(x[ends], *shared, *(t[ends] for t in samplewise))
        layout = [(t.shape, t.dtype, t.device) for t in (x[0], *shared)]
        for _ in range(2):
            trace = traces.get(
                (key, *layout), lambda: Trace(function, x, few.shape[1], shared, samplewise)
            )
            if trace is None:
                break
            traced = TracedLinearization(trace, x, shared, samplewise)
            require_finite(traced.y, _NOT_FINITE)
            if _agree(traced.y[ends], few):
                return traced
            traces.forget((key, *layout))
    return Linearization(lambda x: function(x, *shared, *samplewise), x)


def _agree(a: Tensor, b: Tensor) -> bool:
    tolerance = torch.finfo(b.dtype).eps ** 0.5 * b.abs().max()
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance).all())


def _by_blocks(
    product: Callable[[Tensor], Tensor], columns: Tensor, width: int, like: Tensor
) -> Tensor:
    """Apply a product of ``(C, B, n) → (C, B, m)`` to columns ``(B, n, C)``, some at a time."""
    if columns.shape[-1] == 0:
        return like.new_zeros(*like.shape, 0)
    products = [product(block) for block in columns.movedim(-1, 0).split(width)]
    joined = products[0] if len(products) == 1 else torch.cat(products)
    return joined.movedim(0, -1).contiguous()


class RecentLinearizations:
    """Remembers the latest linearisations, as long as what they were made from stays as it is.

    linear_operator makes an operator anew for each product, so what has to outlive a product
    travels beside the tensors as a keyword argument: this object. Two are remembered, and two
    parts, for the samples that a solver still works on. A copy or a pickle starts empty.
    """

    def __init__(self) -> None:
        self._whole: Recent[AnyLinearization] = Recent(2)
        self._parts: Recent[AnyLinearization] = Recent(2)

    def get(
        self, tensors: Sequence[Tensor], make: Callable[[], AnyLinearization]
    ) -> AnyLinearization:
        """The remembered linearisation if it was made from these tensors, else ``make()``."""
        return self._find(tensors) or self._whole.add(tensors, make())

    def restrict(
        self, tensors: Sequence[Tensor], some: Sequence[Tensor], index: slice | Tensor
    ) -> None:
        """Remember as well the linearisation at ``some`` tensors: the samples at ``index``.

        Nothing happens if that for all samples is not remembered, or not traced.
        """
        found = self._find(tensors)
        part = found.restricted(index) if isinstance(found, TracedLinearization) else None
        if part is not None:
            self._parts.add(some, part)

    def _find(self, tensors: Sequence[Tensor]) -> AnyLinearization | None:
        return self._parts.find(tensors) or self._whole.find(tensors)

    def __reduce__(self) -> tuple:
        return RecentLinearizations, ()

    def __deepcopy__(self, memo: dict) -> "RecentLinearizations":
        return RecentLinearizations()

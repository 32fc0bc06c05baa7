"""A function and its derivatives, captured as one graph of ATen operations.

PyTorch's own `make_fx` captures the same graphs in three to four times the time (130 to 330 ms
against 45 for the paper's convolutional encoder, twice for each shape of image).
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from .convolutions import convolution_backward
from .double_backward import double_backward_settings
from .precision import SharedContext

aten = torch.ops.aten

# Normalisations, in simple operations that take any memory layout; and derivatives that are a
# product with something known before v or u is, as such factors are merged.
_DECOMPOSED: Any = get_decompositions(
    [
        aten.native_batch_norm_backward,
        aten.native_group_norm,
        aten.native_group_norm_backward,
        aten.native_layer_norm,
        aten.native_layer_norm_backward,
        aten.silu_backward,
        aten.gelu_backward,
    ]
)
_REWRITTEN = {
    **_DECOMPOSED,
    aten.tanh_backward.default: lambda grad, y: grad * (1 - y * y),
    aten.sigmoid_backward.default: lambda grad, y: grad * (y * (1 - y)),
    aten.convolution_backward.default: convolution_backward,
}
# Operations whose result is not the same, or not of the same shape, for the same shapes.
_UNFIXED = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
}
# Those whose result has nothing to do with the values of their arguments.
_OF_SHAPES = {
    aten.empty_like.default,
    aten.full_like.default,
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.new_empty.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.sym_size.int,
}
# What hands values to Python and is no operation, so that it is not recorded.
_READING = {
    Tensor.numpy,
    Tensor.tolist,
    Tensor.untyped_storage,
    Tensor.__array__,
    Tensor.__dlpack__,
}
_SIZE_MATTERS = "its operations depend on the size of the batch"


class CaptureError(Exception):
    """The function is not a fixed sequence of tensor operations; the message says why."""


class Captured(NamedTuple):
    """A graph, and a module whose buffers are its constants."""

    graph: fx.Graph
    root: torch.nn.Module


def capture(
    function: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> tuple[Captured, tuple[Tensor, ...]]:
    """The graph of ``(x, *others, v, u) → f(x, *others), Jv, Jᵀu``, and these three.

    Raises:
        CaptureError: an operation hands values to Python, or its result is random or of a shape
            that depends on values.
    """
    recorder = _Recorder(inputs)
    x, *others, v, u = inputs
    with (
        double_backward_settings(),
        _UNVALIDATED_DISTRIBUTIONS,
        recorder,
        _Reads(recorder),
    ):
        x, u = x.detach().requires_grad_(), u.detach().requires_grad_()
        y = function(x, *others)
        (Jtu,) = torch.autograd.grad(y, x, u, create_graph=True, materialize_grads=True)
        (Jv,) = torch.autograd.grad(Jtu, u, v, materialize_grads=True)
    return recorder.finish((y, Jv, Jtu)), (y.detach(), Jv.detach(), Jtu.detach())


def generalize(captured: Captured, other: Captured) -> None:
    """Make the graph for two samples one for any number, by comparing it to that for three.

    Raises:
        CaptureError: the two differ by more than numbers that are linear in the size of the batch.
    """
    graph, root = captured
    for each in (graph, other.graph):
        each.eliminate_dead_code()
    # Constants have to be the same ones.
    for (name, a), (_, b) in zip(root.named_buffers(), other.root.named_buffers(), strict=True):
        if a.shape != b.shape or not torch.equal(a, b):
            raise CaptureError(f"{name} depends on the size of the batch")
    # Nodes correspond one to one; numbers that differ become multiples of the batch's size.
    pairs = list(zip(graph.nodes, other.graph.nodes, strict=True))
    counterpart: dict[Any, Any] = {theirs: ours for ours, theirs in pairs}
    with graph.inserting_after(pairs[0][0]):
        size = graph.call_function(aten.sym_size.int, (pairs[0][0], 0))
    for ours, theirs in pairs:
        if ours.target != theirs.target:
            raise CaptureError(_SIZE_MATTERS)
        mine, form = tree_flatten((ours.args, ours.kwargs))
        for index, three in enumerate(tree_flatten((theirs.args, theirs.kwargs))[0]):
            two, three = mine[index], counterpart.get(three, three)
            if type(two) is int and type(three) is int and two != three:
                with graph.inserting_before(ours):
                    multiple = graph.call_function(operator.mul, (size, three - two))
                    offset = 3 * two - 2 * three
                    mine[index] = graph.call_function(operator.add, (multiple, offset))
            elif two != three:
                raise CaptureError(_SIZE_MATTERS)
        ours.args, ours.kwargs = tree_unflatten(mine, form)
        if "layout" in ours.meta:
            ours.meta["layout"] = ours.meta["layout"], theirs.meta["layout"]
    _require_independent(graph)


def _require_independent(graph: fx.Graph) -> None:
    """Refuse values that are not so many for each sample: they may be made from several samples.

    Batches that a map was validated with need not show that: x / x.max().clamp(min=1) mixes the
    samples of some only.
    """
    needed, stack = set(), [graph.output_node()]
    while stack:
        node = stack.pop()
        if node not in needed and node.target not in _OF_SHAPES:
            needed.add(node)
            stack += node.all_input_nodes
    of_samples: set[fx.Node] = set()
    for node in filter(needed.__contains__, graph.nodes):
        layouts = node.meta.get("layout")
        sizes = [shape.numel() for shape, *_ in layouts] if layouts else [2, 3]
        if node.op == "placeholder":
            depends = sizes[0] != sizes[1]
        else:
            depends = any(argument in of_samples for argument in node.all_input_nodes)
        if depends and 3 * sizes[0] != 2 * sizes[1]:
            raise CaptureError(f"the result of {node.target} may be made from several samples")
        of_samples.update([node] * depends)


class _Recorder(TorchDispatchMode):
    """Writes down the ATen operations that run, those of autograd included, as an FX graph."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.root, self.graph = torch.nn.Module(), fx.Graph()
        # By identity; the tensors are held, so that no other can take their place.
        self.nodes: dict[int, tuple[fx.Node, Tensor]] = {}
        for index, tensor in enumerate(inputs):
            self._remember(self.graph.placeholder(f"input_{index}"), tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _REWRITTEN:
            with self:
                result = _REWRITTEN[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
        if not _UNFIXED.isdisjoint(func.tags):
            raise CaptureError(f"the result of {func} is not fixed by the shapes of its inputs")
        result = func(*args, **kwargs)
        arguments = tree_map_only(Tensor, self._node, (args, kwargs))
        node = self.graph.call_function(func, *arguments)
        if isinstance(result, Tensor):
            self._remember(node, result)
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._remember(self.graph.call_function(operator.getitem, (node, index)), part)
        elif result is not None:
            raise CaptureError(f"{func} hands values of tensors to Python")
        return result

    def finish(self, outputs: tuple[Tensor, ...]) -> Captured:
        """The graph with these outputs."""
        self.graph.output(tuple(self._node(tensor) for tensor in outputs))
        return Captured(self.graph, self.root)

    def _remember(self, node: fx.Node, tensor: Tensor) -> None:
        node.meta["layout"] = tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        self.nodes[id(tensor)] = node, tensor

    def _node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self.nodes:  # a constant of the function
            name = f"constant_{len(self.nodes)}"
            # The tensor itself: a detached one would not tell that it was changed in place.
            self.root.register_buffer(name, tensor)
            self._remember(self.graph.get_attr(name), tensor)
        return self.nodes[id(tensor)][0]


class _Reads(TorchFunctionMode):
    """Refuses what reads the values of recorded tensors by other ways than operations."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in _READING and id(args[0]) in self._recorder.nodes:
            raise CaptureError(f"{func.__name__} hands values of tensors to Python")
        return func(*args, **(kwargs or {}))


@contextmanager
def _without_validation() -> Iterator[None]:
    """Distributions do not look at the values of their parameters."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


_UNVALIDATED_DISTRIBUTIONS = SharedContext(_without_validation)

"""The products of a map traced once into graphs: a primal part, and parts linear in v and in u.

Autograd records its graph anew for every batch. Here Jv and Jᵀu are traced once into FX graphs of
ATen operations, and split into what depends on the vector and what does not: a batch then costs one
run of the primal part, and a product one run of a linear part, about one forward pass each.
"""

import logging
import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .convolutions import pack
from .memory import Recent
from .recording import UntraceableError, generalise, traced

logger = logging.getLogger("pullback")
aten = torch.ops.aten

# Traces kept for a map, which may be called with events of several shapes.
_MOST = 16

# For jvp and for vjp: tensors, and sizes that depend on the number of samples.
Saved = Sequence[Sequence[Any]]

# What returns its first argument as it is, if shape, dtype and device stay the same.
_NO_OPS = {
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten._to_copy.default,
    aten.expand.default,
    aten.to.dtype,
    aten.view.default,
}


class Trace:
    """f, Jv and Jᵀu as graphs that share their primal part, for batches of any size.

    Jv is the derivative of Jᵀu with respect to u, which asks for no forward-mode formulas
    (J. Townsend, "A new trick for calculating Jacobian vector products", 2017). Two samples and
    three are traced: a number that differs between the two graphs is taken as linear in the size
    of the batch.

    Args:
        function: ``f(x, *shared, *samplewise)``, ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``.
        rows: M.
        shared, samplewise: further tensors, constants to the derivatives; the latter ``(B, …)``.

    Attributes:
        jvp, vjp: ``(*what it needs, v or u) → Jv or Jᵀu``, ``(B, M)`` or ``(B, N)``.

    Raises:
        UntraceableError: Python looks at values of tensors, an operation in place cannot be
            avoided, or the size of the batch matters in another way.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        rows: int,
        shared: Sequence[Tensor],
        samplewise: Sequence[Tensor],
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        recordings, saved = [], []
        for size in (2, 3):
            some = torch.arange(size, device=x.device) % len(x)
            shapes = (size, x.shape[1]), (size, rows)
            v, u = (torch.randn(shape, generator=generator).to(x) for shape in shapes)
            batch = x[some], [t[some] for t in samplewise]
            inputs = [batch[0], *shared, *batch[1], v, u]
            recordings.append((*traced(function, inputs), batch, v, u))
        module, other = (recording[0] for recording in recordings)
        generalise(module, other)
        self._split(module, len(shared))
        for _, expected, batch, v, u in recordings:
            y, for_jvp, for_vjp = self.primal(batch[0], shared, batch[1])
            results = y, self.jvp(*for_jvp, v), self.vjp(*for_vjp, u)
            if not all(map(_close, results, expected)):
                raise UntraceableError("rearranging its graph changes the result")
            saved.append((for_jvp, for_vjp))
        self._growth = [
            [_growth(*values) for values in zip(*pair, strict=True)]
            for pair in zip(*saved, strict=True)
        ]

    def _split(self, module: fx.GraphModule, shared: int) -> None:
        """Make the graphs: what is known of all batches, the primal part, and the two products."""
        graph = module.graph
        x_node, *others, v_node, u_node = graph.find_nodes(op="placeholder")
        batch, vectors = {x_node, *others[shared:]}, {v_node, u_node}
        _replace_mutations(graph)
        _drop_no_ops(graph)
        _merge_scalings(graph, _dependents(graph, vectors))
        pack(graph, _dependents(graph, vectors), _dependents(graph, batch | vectors))

        linear = _dependents(graph, vectors)
        varying = _dependents(graph, batch | vectors)
        y, Jv, Jtu = _outputs(graph)
        jvp_part = _between(v_node, Jv, linear)
        vjp_part = _between(u_node, Jtu, linear)
        if y in linear or u_node in jvp_part or v_node in vjp_part:
            raise UntraceableError("a product depends on more than its own vector")
        saved = _inputs_of(jvp_part, [Jv]), _inputs_of(vjp_part, [Jtu])
        nodes = [node for node in graph.nodes if node.op != "output"]
        primal_part = [node for node in nodes if node in varying and node not in linear]
        known = _inputs_of(primal_part, [y, *saved[0], *saved[1]])
        known_part = [node for node in nodes if node not in varying]
        self._known = _compiled(module, known_part, tuple(known))
        self._primal = _compiled(module, primal_part, (y, *map(tuple, saved)), known)
        self.jvp = _compiled(module, jvp_part, Jv, saved[0])
        self.vjp = _compiled(module, vjp_part, Jtu, saved[1])
        self._constants = list(module.buffers())
        self._recent: Recent[tuple[Tensor, ...]] = Recent(1)

    def primal(
        self, x: Tensor, shared: Sequence[Tensor], samplewise: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Any], Sequence[Any]]:
        """f(x), what jvp needs, and what vjp needs."""
        sources = [*shared, *self._constants]
        known = self._recent.find(sources)
        if known is None:
            known = self._recent.add(sources, self._known(*shared))
        return self._primal(*known, x, *samplewise)

    def restricted(self, saved: Saved, index: Any, extra: int) -> Saved | None:
        """What jvp and vjp need for the samples at ``index``, from what they need for all.

        ``extra`` is the number of samples that this makes more (it is negative if they get fewer).
        None if what belongs to which sample cannot be told.
        """
        if any(growth is None for part in self._growth for growth in part):
            return None
        return [
            [_share(*pair, index, extra) for pair in zip(values, growth, strict=True)]
            for values, growth in zip(saved, self._growth, strict=True)
        ]


class Traces:
    """The traces of one map; a copy or a pickle starts empty."""

    def __init__(self) -> None:
        self._traces: dict[Hashable, Trace | None] = {}

    def get(self, key: Hashable, make: Callable[[], Trace]) -> Trace | None:
        """The trace of this key, made if need be; None, with one log line, if there can be none."""
        if key not in self._traces:
            if len(self._traces) >= _MOST:
                self.forget(next(iter(self._traces)))
            self._traces[key] = self._attempt(make)
        return self._traces[key]

    def forget(self, key: Hashable) -> None:
        """Make it anew when it is asked for again."""
        self._traces.pop(key, None)

    def _attempt(self, make: Callable[[], Trace]) -> Trace | None:
        try:
            return make()
        # Whatever tracing trips over, the products can still be had by differentiation.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            logger.info("the map's products are differentiated anew, not traced: %s", reason)
            return None

    def __len__(self) -> int:
        return len(self._traces)

    def __reduce__(self) -> tuple:
        return Traces, ()

    def __deepcopy__(self, memo: dict) -> "Traces":
        return Traces()


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, 1e-3, 1e-4 * b.abs().max().item())


def _growth(two: Any, three: Any) -> int | None:
    """How much longer a saved tensor is, or how much larger a size, per sample; None if unclear."""
    if isinstance(two, int):
        return three - two
    if two.shape == three.shape:
        return 0
    by_sample = (len(two), len(three)) == (2, 3) and two.shape[1:] == three.shape[1:]
    return 1 if by_sample else None


def _share(value: Any, growth: int | None, index: Any, extra: int) -> Any:
    if isinstance(value, int):
        return value + (growth or 0) * extra
    return value[index] if growth else value


def _replace_mutations(graph: fx.Graph) -> None:
    """Replace operations in place on what is not used otherwise, such as ``relu_``."""
    for node in _calls(graph):
        if not node.target._schema.is_mutable:
            continue
        changed = node.args[0]
        name = node.target._schema.name.removeprefix("aten::")
        functional = getattr(aten, name.removesuffix("_"), None)
        replacement = getattr(functional, node.target._overloadname, None)
        fresh = len(changed.users) == 1 and not _may_be_seen_elsewhere(changed)
        if not (fresh and replacement):
            raise UntraceableError(f"{name} changes a tensor that is used elsewhere")
        node.target = replacement


def _may_be_seen_elsewhere(node: Any) -> bool:
    """Whether the node's memory is that of an input or another node."""
    if node.target is operator.getitem:
        return _may_be_seen_elsewhere(node.args[0])
    if node.op != "call_function":
        return True
    return any(argument.alias_info is not None for argument in node.target._schema.arguments)


def _drop_no_ops(graph: fx.Graph) -> None:
    for node in _calls(graph):
        if node.target in _NO_OPS and node.meta["layout"] == node.args[0].meta["layout"]:
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def _merge_scalings(graph: fx.Graph, linear: set[fx.Node]) -> None:
    """(t·a)·b becomes t·(a·b) where t is linear in the vector and a, b are not."""
    for node in _calls(graph):
        outer, inner = _factors(node, linear), None
        if outer is not None:
            inner = _factors(outer[0], linear)
        if inner is None or outer is None or len(outer[0].users) > 1:
            continue
        (t, a), b = inner, outer[1]
        if [shape for shape, *_ in t.meta["layout"]] != [s for s, *_ in node.meta["layout"]]:
            continue
        with graph.inserting_before(node):
            factor = graph.call_function(aten.mul.Tensor, (a, b))
        # Broadcasting: the number of dimensions, which is what matters from here on, is the larger.
        factor.meta = max(a.meta, b.meta, key=lambda meta: len(meta["layout"][0][0]))
        node.args = (t, factor)
    graph.eliminate_dead_code()


def _factors(node: Any, linear: set[fx.Node]) -> tuple[Any, Any] | None:
    """(t, a) if the node is t·a with t linear in the vector and a tensor a that is not."""
    if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    t, a = node.args if node.args[0] in linear else node.args[::-1]
    return (t, a) if t in linear and a not in linear else None


def _outputs(graph: fx.Graph) -> Any:
    return graph.output_node().args[0]


def _calls(graph: fx.Graph) -> list[Any]:
    """The nodes that call an ATen operation; untyped, for their arguments may be anything."""
    return [node for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def _dependents(graph: fx.Graph, roots: set[fx.Node]) -> set[fx.Node]:
    """The roots and all that is computed from them, but for the graph's output."""
    found = set(roots)
    for node in graph.nodes:
        if node.op != "output" and any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def _between(root: fx.Node, end: fx.Node, linear: set[fx.Node]) -> list[fx.Node]:
    """The nodes of ``linear`` that ``end`` needs, in order, and the root."""
    needed, stack = {root}, [end]
    while stack:
        node = stack.pop()
        if node in linear and node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    return [node for node in root.graph.nodes if node in needed]


def _inputs_of(part: list[fx.Node], results: list[fx.Node]) -> list[fx.Node]:
    """What the part uses, or its results are, and it does not compute, in a fixed order."""
    inside = set(part)
    used = dict.fromkeys([*(a for node in part for a in node.all_input_nodes), *results])
    return [node for node in used if node not in inside]


def _compiled(
    module: fx.GraphModule,
    part: Iterable[fx.Node],
    output: fx.node.Argument,
    inputs: Iterable[fx.Node] = (),
) -> fx.GraphModule:
    """The part as a function of the inputs and of its own placeholders."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    for node in part:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.node.map_arg(output, copies.__getitem__))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)

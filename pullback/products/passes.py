"""Passes over captured graphs of ATen operations, and the parts that they are cut into."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from .capture import CaptureError

aten = torch.ops.aten

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


def relax_views(graph: fx.Graph) -> None:
    """Take any memory layout where views were taken: several columns come in one of their own."""
    for node in _list_calls(graph):
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default


def replace_mutations(graph: fx.Graph) -> None:
    """Replace operations in place, such as ``relu_``, by those that return a new tensor.

    Whatever used the tensor later on uses their result already. What used it earlier must not have
    kept a view of its memory.

    Raises:
        CaptureError: the memory may be that of another tensor as well.
    """
    for node in _list_calls(graph):
        if not node.target._schema.is_mutable:
            continue
        written = [a.name for a in node.target._schema.arguments if a.is_write]
        if written != [node.target._schema.arguments[0].name]:
            raise CaptureError(f"{node.target} writes into a tensor that it is given as out=")
        changed = node.args[0]
        name = node.target._schema.name.removeprefix("aten::")
        functional = getattr(aten, name.removesuffix("_"), None)
        replacement = getattr(functional, node.target._overloadname, None)
        others = [user for user in changed.users if user is not node]
        shared = _may_be_seen_elsewhere(changed) or any(map(_may_be_seen_elsewhere, others))
        if shared or replacement is None:
            raise CaptureError(f"{name} changes a tensor that is used elsewhere")
        node.target = replacement


def _may_be_seen_elsewhere(node: Any) -> bool:
    """Whether the node's memory is that of an input or another node."""
    if node.op == "output":
        return False
    if node.target is operator.getitem:
        return _may_be_seen_elsewhere(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return any(argument.alias_info is not None for argument in node.target._schema.arguments)


def drop_no_ops(graph: fx.Graph) -> None:
    """Drop copies, and views with the shape that was there already."""
    for node in _list_calls(graph):
        if node.target in _NO_OPS and node.meta["layout"] == node.args[0].meta["layout"]:
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def merge_scalings(graph: fx.Graph, linear: set[fx.Node]) -> None:
    """(t·a)·b becomes t·(a·b) where t is linear in the vector and a, b are not."""
    for node in _list_calls(graph):
        outer, inner = _find_factors(node, linear), None
        if outer is not None:
            inner = _find_factors(outer[0], linear)
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


def multiply_in_place(graph: fx.Graph, linear: set[fx.Node]) -> None:
    """t·a overwrites t, where t is linear in the vector and used for nothing else.

    Memory for a large result costs more than the multiplication.
    """
    for node in _list_calls(graph):
        factors = _find_factors(node, linear)
        if factors is None:
            continue
        t, a = factors
        sizes = [[(shape, dtype) for shape, _, dtype, _ in n.meta["layout"]] for n in (t, node)]
        if len(t.users) == 1 and sizes[0] == sizes[1] and not _may_be_seen_elsewhere(t):
            node.target, node.args = aten.mul_.Tensor, (t, a)


def _find_factors(node: Any, linear: set[fx.Node]) -> tuple[Any, Any] | None:
    """(t, a) if the node is t·a with t linear in the vector and a tensor a that is not."""
    if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    t, a = node.args if node.args[0] in linear else node.args[::-1]
    return (t, a) if t in linear and a not in linear else None


def _list_calls(graph: fx.Graph) -> list[Any]:
    """The nodes that call an ATen operation; untyped, for their arguments may be anything."""
    return [node for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def find_dependents(graph: fx.Graph, roots: set[fx.Node]) -> set[fx.Node]:
    """The roots and all that is computed from them, but for the graph's output."""
    found = set(roots)
    for node in graph.nodes:
        if node.op != "output" and any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def find_between(root: fx.Node, end: fx.Node, linear: set[fx.Node]) -> list[fx.Node]:
    """The nodes of ``linear`` that ``end`` needs, in order, and the root."""
    needed, stack = {root}, [end]
    while stack:
        node = stack.pop()
        if node in linear and node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    return [node for node in root.graph.nodes if node in needed]


def find_inputs(part: list[fx.Node], results: list[fx.Node]) -> list[fx.Node]:
    """What the part uses, or its results are, and it does not compute, in a fixed order."""
    inside = set(part)
    used = dict.fromkeys([*(a for node in part for a in node.all_input_nodes), *results])
    return [node for node in used if node not in inside]


def extract(
    root: torch.nn.Module,
    part: Iterable[fx.Node],
    output: fx.node.Argument,
    inputs: Iterable[fx.Node] = (),
) -> fx.GraphModule:
    """The part as a function of the inputs and its own placeholders; ``root`` has constants."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    for node in part:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.node.map_arg(output, copies.__getitem__))
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph)

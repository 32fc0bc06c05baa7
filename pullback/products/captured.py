"""The products of a map traced once into graphs: a primal part, and parts linear in v and in u.

Autograd records its graph anew for every batch. Here Jv and Jᵀu are traced once into FX graphs of
ATen operations, and split into what depends on the vector and what does not: a batch then costs one
run of the primal part, and a product one run of a linear part, about one forward pass each.
"""

import copy
import logging
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from .blocks import MAX_BLOCK, by_blocks
from .cache import Recent
from .capture import Recording, UntraceableError, generalise, traced
from .cuda_graphs import Product, ReplayedProduct, Saved
from .onednn import pack
from .passes import (
    between,
    compiled,
    dependents,
    drop_no_ops,
    inputs_of,
    merge_scalings,
    multiply_in_place,
    replace_mutations,
)
from .precision import float32_proper

logger = logging.getLogger("pullback")

# Traces kept for a map, which may be called with events of several shapes.
_MOST = 16


class CapturedLinearization:
    """A linearisation from captured graphs, at about one forward pass a product."""

    def __init__(
        self, trace: "Trace", x: Tensor, shared: Sequence[Tensor], samplewise: Sequence[Tensor]
    ) -> None:
        self._trace, self._x = trace, x
        self.y, *saved = trace.primal(x, shared, samplewise)
        self._saved = list(map(Saved, saved))

    def restricted(self, index: slice | Tensor) -> "CapturedLinearization | None":
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
            return by_blocks(lambda block: product(saved, block), columns, width, like)


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
        jvp, vjp: Jv and Jᵀu, of what they need to know and of columns, ``(C, B, ·) → (C, B, ·)``.
        parts: their graphs, ``(*what it needs, v or u) → Jv or Jᵀu``, for one column.

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
        recording, other = (first for first, *_ in recordings)
        generalise(recording, other)
        self._split(recording, len(shared))
        for _, expected, batch, v, u in recordings:
            y, *both = self.primal(batch[0], shared, batch[1])
            Jv, Jtu = (part(*s, w) for part, s, w in zip(self.parts, both, (v, u), strict=True))
            if not all(map(_close, (y, Jv, Jtu), expected)):
                raise UntraceableError("rearranging its graph changes the result")
            saved.append(both)
        self._growth = [
            [_growth(*values) for values in zip(*pair, strict=True)]
            for pair in zip(*saved, strict=True)
        ]
        self.jvp, self.vjp = (_of_columns(part, x.device) for part in self.parts)

    def _split(self, recording: Recording, shared: int) -> None:
        """Make the graphs: what is known of all batches, the primal part, and the two products."""
        graph, root = recording
        x_node, *others, v_node, u_node = graph.find_nodes(op="placeholder")
        batch, vectors = {x_node, *others[shared:]}, {v_node, u_node}
        replace_mutations(graph)
        drop_no_ops(graph)
        merge_scalings(graph, dependents(graph, vectors))
        pack(graph, dependents(graph, vectors), dependents(graph, batch | vectors))

        linear = dependents(graph, vectors)
        multiply_in_place(graph, linear)
        varying = dependents(graph, batch | vectors)
        y, Jv, Jtu = cast(tuple[fx.Node, ...], graph.output_node().args[0])
        jvp_part = between(v_node, Jv, linear)
        vjp_part = between(u_node, Jtu, linear)
        if y in linear or u_node in jvp_part or v_node in vjp_part:
            raise UntraceableError("a product depends on more than its own vector")
        saved = inputs_of(jvp_part, [Jv]), inputs_of(vjp_part, [Jtu])
        nodes = [node for node in graph.nodes if node.op != "output"]
        primal_part = [node for node in nodes if node in varying and node not in linear]
        known = inputs_of(primal_part, [y, *saved[0], *saved[1]])
        known_part = [node for node in nodes if node not in varying]
        self._known = compiled(root, known_part, tuple(known))
        self._primal = compiled(root, primal_part, (y, *map(tuple, saved)), known)
        self.parts = (
            compiled(root, jvp_part, Jv, saved[0]),
            compiled(root, vjp_part, Jtu, saved[1]),
        )
        self._constants = list(root.buffers())
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

    def restricted(self, saved: list[Saved], index: Any, extra: int) -> list[Saved] | None:
        """What jvp and vjp need for the samples at ``index``, from what they need for all.

        ``extra`` is the number of samples that this makes more (it is negative if they get fewer).
        None if what belongs to which sample cannot be told.
        """
        if any(growth is None for part in self._growth for growth in part):
            return None
        return [
            Saved(_share(*pair, index, extra) for pair in zip(values, growth, strict=True))
            for values, growth in zip(saved, self._growth, strict=True)
        ]


class Traces:
    """The traces of one map."""

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


_OF_OWNERS: weakref.WeakKeyDictionary[Any, Traces] = weakref.WeakKeyDictionary()


def traces_of(owner: object) -> Traces:
    """The traces kept for a map, or any other owner, as long as that lives."""
    return _OF_OWNERS.setdefault(owner, Traces())


def _of_columns(part: Callable[..., Tensor], device: torch.device) -> Product:
    """The product of columns ``(C, B, n)``, from that of one."""

    def product(saved: Saved, columns: Tensor) -> Tensor:
        if len(columns) == 1:
            return part(*saved, columns[0].contiguous()).unsqueeze(0)
        return torch.vmap(lambda column: part(*saved, column))(columns)

    return ReplayedProduct(product) if device.type == "cuda" else product


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

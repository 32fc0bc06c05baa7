"""J v and Jᵀ u by graphs captured once: a primal part, and parts linear in v and in u.

Autograd records its graph anew for every batch. Here Jv and Jᵀu are captured once as FX graphs of
ATen operations, and split into what depends on the vector and what does not: a batch then costs one
run of the primal part, and a product one run of a linear part, about one forward pass each.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from .blocks import by_blocks
from .cache import Recent
from .capture import Captured, CaptureError, capture, generalize
from .cuda_graphs import Intermediates, Product, record_products
from .devices import is_launch_bound, max_block
from .double_backward import AutogradLinearization
from .fallback import first_line, is_close, log_uncaptured, logger
from .onednn import pack
from .parts import Part
from .passes import (
    drop_no_ops,
    extract,
    find_between,
    find_dependents,
    find_inputs,
    merge_scalings,
    multiply_in_place,
    relax_views,
    replace_mutations,
)
from .precision import full_precision

Function = Callable[..., Tensor]
# x ``(3, N)``, and what belongs to each of these samples.
Batch = tuple[Tensor, list[Tensor]]


class CapturedLinearization:
    """The derivative of a captured function at a batch, at about one forward pass a product.

    What a graph cannot compute after all is computed by autograd, and the log says so.
    """

    def __init__(
        self,
        graphs: "CapturedFunction",
        function: Function,
        x: Tensor,
        shared: Sequence[Tensor],
        samplewise: Sequence[Tensor],
    ) -> None:
        self._graphs, self._function, self._x = graphs, function, x
        self._shared, self._samplewise = shared, samplewise
        with torch.no_grad(), full_precision():
            self.y, *intermediates = graphs.run_primal(x, shared, samplewise)
        self._intermediates = list(map(Intermediates, intermediates))
        self._instead: AutogradLinearization | None = None

    def restrict(self, index: slice | Tensor) -> "CapturedLinearization | Part | None":
        """That of some of the samples, without primal work; None if it has to be made anew."""
        part = Part.of(self, index) if is_launch_bound(self._x) else None
        if part is not None:
            return part
        chosen = copy.copy(self)
        chosen._x, chosen.y = self._x[index], self.y[index]
        chosen._samplewise = [tensor[index] for tensor in self._samplewise]
        intermediates = self._graphs.restrict(
            self._intermediates, index, len(chosen.y) - len(self.y)
        )
        if intermediates is None or self._instead is not None:
            return None
        chosen._intermediates = intermediates
        return chosen

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""
        return self._by_columns("vjp", 1, u, self._x)

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""
        return self._by_columns("jvp", 0, v, self.y)

    def _by_columns(self, name: str, part: int, columns: Tensor, like: Tensor) -> Tensor:
        if self._instead is None:
            product: Product = getattr(self._graphs, name)
            intermediates = self._intermediates[part]
            most = max_block(self._x.device)
            width = max(1, most // max(self._x.numel(), self.y.numel()))
            try:
                with torch.no_grad(), full_precision():
                    return by_blocks(lambda b: product(intermediates, b), columns, width, like)
            except Exception as error:  # whatever it is, autograd may do without
                log_uncaptured(error)
            inputs = (*self._shared, *self._samplewise)
            self._instead = AutogradLinearization(lambda x: self._function(x, *inputs), self._x)
        return cast(Tensor, getattr(self._instead, name)(columns))


class CapturedFunction:
    """f, Jv and Jᵀu as graphs that share their primal part, for batches of any size.

    Jv is the derivative of Jᵀu with respect to u, which asks for no forward-mode formulas
    (J. Townsend, "A new trick for calculating Jacobian vector products", 2017). Two samples and
    three are captured: a number that differs between the two graphs is taken as linear in the size
    of the batch. The graphs are compared with what was captured, for one to three samples, one
    column and several.

    Args:
        function: ``f(x, *shared, *samplewise)``, ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``.
        rows: M.
        shared, samplewise: further tensors, constants to the derivatives; the latter ``(B, …)``.

    Attributes:
        jvp, vjp: Jv and Jᵀu, of intermediates and of columns, ``(C, B, ·) → (C, B, ·)``.
        parts: their graphs, ``(*intermediates, v or u) → Jv or Jᵀu``, for one column.
        tolerance: how far it may be from autograd, relatively; None until that was measured.

    Raises:
        CaptureError: Python looks at values of tensors, an operation in place cannot be avoided,
            the size of the batch matters in another way, or the graphs compute something else.
    """

    def __init__(
        self,
        function: Function,
        x: Tensor,
        rows: int,
        shared: Sequence[Tensor],
        samplewise: Sequence[Tensor],
    ) -> None:
        self.tolerance: float | None = None
        generator = torch.Generator().manual_seed(0)
        some = torch.arange(3, device=x.device) % len(x)
        batch = x[some], [tensor[some] for tensor in samplewise]
        vectors = [
            torch.randn(3, n, generator=generator, device="cpu").to(x) for n in (x.shape[1], rows)
        ]
        captured, expected = _capture_any_size(function, batch, vectors, shared)
        try:
            self._build(captured, expected, batch, vectors, shared, packed=True)
        except Exception as error:
            # The first graph was changed by then.
            captured, expected = _capture_any_size(function, batch, vectors, shared)
            self._build(captured, expected, batch, vectors, shared, packed=False)
            logger.info("the map's weights are not packed for oneDNN: %s", first_line(error))

    def linearize(
        self,
        function: Function,
        x: Tensor,
        shared: Sequence[Tensor],
        samplewise: Sequence[Tensor],
    ) -> CapturedLinearization:
        """The derivative at a batch; the function is what to fall back to."""
        return CapturedLinearization(self, function, x, shared, samplewise)

    def _build(
        self,
        captured: Captured,
        expected: tuple[Tensor, ...],
        batch: Batch,
        vectors: list[Tensor],
        shared: Sequence[Tensor],
        packed: bool,
    ) -> None:
        """Cut the graph into its parts, and see that they compute what was captured."""
        self._split(captured, len(shared), packed)
        # See that the parts compute the same, together and for other sizes.
        intermediates = []
        for size in (2, 3, 1):
            x, samplewise = batch[0][:size], [tensor[:size] for tensor in batch[1]]
            wanted = [tensor[:size] for tensor in expected]
            y, *both = self.run_primal(x, shared, samplewise)
            intermediates.append(both)
            self._require_close(y, wanted[0])
            for index, vector in enumerate(vectors):
                product = self.parts[index](*both[index], vector[:size].contiguous())
                self._require_close(product, wanted[1 + index])
        self._growth = [
            [_find_growth(*values) for values in zip(*pair, strict=True)]
            for pair in zip(*intermediates[:2], strict=True)
        ]
        self._has_places = self._reads_places(intermediates[1], vectors, expected[1:])
        self.jvp, self.vjp = (
            record_products(
                _take_columns(part, Intermediates(both), vector, wanted),
                vector.device.type,
                are_weights,
            )
            for part, both, vector, wanted, are_weights in zip(
                self.parts, intermediates[1], vectors, expected[1:], self._are_weights, strict=True
            )
        )

    def _split(self, captured: Captured, shared: int, packed: bool) -> None:
        """Make the graphs: what depends on weights alone, the primal part, and the two products."""
        graph, root = captured
        x_node, *others, v_node, u_node = graph.find_nodes(op="placeholder")
        batch, vectors = {x_node, *others[shared:]}, {v_node, u_node}
        # Rewrite the whole graph.
        replace_mutations(graph)
        drop_no_ops(graph)
        relax_views(graph)
        merge_scalings(graph, find_dependents(graph, vectors))
        if packed:
            linear = find_dependents(graph, vectors)
            pack(graph, linear, find_dependents(graph, batch | vectors))
        linear = find_dependents(graph, vectors)
        multiply_in_place(graph, linear)

        # Tell which node belongs to which part.
        varying = find_dependents(graph, batch | vectors)
        y, Jv, Jtu = cast(tuple[fx.Node, ...], graph.output_node().args[0])
        jvp_part = find_between(v_node, Jv, linear)
        vjp_part = find_between(u_node, Jtu, linear)
        if y in linear or u_node in jvp_part or v_node in vjp_part:
            raise CaptureError("a product depends on more than its own vector")
        needed = find_inputs(jvp_part, [Jv]), find_inputs(vjp_part, [Jtu])
        nodes = [node for node in graph.nodes if node.op != "output"]
        primal_part = [node for node in nodes if node in varying and node not in linear]
        prepared = find_inputs(primal_part, [y, *needed[0], *needed[1]])
        weights_part = [node for node in nodes if node not in varying]
        self._are_weights = [[node not in varying for node in part] for part in needed]

        # Cut them out.
        self._prepare = extract(root, weights_part, tuple(prepared))
        self._primal = extract(root, primal_part, (y, *map(tuple, needed)), prepared)
        self.parts = (
            extract(root, jvp_part, Jv, needed[0]),
            extract(root, vjp_part, Jtu, needed[1]),
        )
        self._constants = list(root.buffers())
        self._recent: Recent[tuple[Tensor, ...]] = Recent(1)

    def run_primal(
        self, x: Tensor, shared: Sequence[Tensor], samplewise: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Any], Sequence[Any]]:
        """f(x), and the intermediates that jvp and vjp need."""
        sources = [*shared, *self._constants]
        prepared = self._recent.find(sources)
        if prepared is None:
            prepared = self._recent.add(sources, self._prepare(*shared))
        return self._primal(*prepared, x, *samplewise)

    def restrict(
        self, intermediates: list[Intermediates], index: Any, extra: int
    ) -> list[Intermediates] | None:
        """What jvp and vjp need for the samples at ``index``, from what they need for all.

        ``extra`` is the number of samples that this makes more (it is negative if they get fewer).
        None if what belongs to which sample cannot be told.
        """
        unclear = any(growth is None for part in self._growth for growth in part)
        if unclear or self._has_places:
            return None
        return [
            Intermediates(_choose(*pair, index, extra) for pair in zip(values, growth, strict=True))
            for values, growth in zip(intermediates, self._growth, strict=True)
        ]

    def _reads_places(
        self, three: Sequence[Any], vectors: list[Tensor], expected: Sequence[Tensor]
    ) -> bool:
        """Whether what is known of a sample holds at its own place in the batch only.

        Such are ``torch.arange(len(x))`` and what else numbers the samples.
        """
        self._has_places = False
        index = torch.tensor([1, 1, 0], device=vectors[0].device)  # all places are those of three
        chosen = self.restrict(list(map(Intermediates, three)), index, 0)
        return chosen is not None and not all(
            is_close(part(*values, vector[index]), wanted[index])
            for part, values, vector, wanted in zip(
                self.parts, chosen, vectors, expected, strict=True
            )
        )

    def _require_close(self, a: Tensor, b: Tensor) -> None:
        if not is_close(a, b):
            raise CaptureError("rearranging its graph changes the result")


def _capture_any_size(
    function: Function, batch: Batch, vectors: list[Tensor], shared: Sequence[Tensor]
) -> tuple[Captured, tuple[Tensor, ...]]:
    """One graph for any number of samples, and what the function and its products were of three."""
    captured = []
    for size in (2, 3):
        samplewise = [tensor[:size].contiguous() for tensor in (*batch[1], *vectors)]
        captured.append(capture(function, [batch[0][:size].contiguous(), *shared, *samplewise]))
    (graph, _), (other, expected) = captured
    generalize(graph, other)
    return graph, expected


def _take_columns(
    part: Callable[..., Tensor], intermediates: Intermediates, vector: Tensor, expected: Tensor
) -> Product:
    """The product of columns ``(C, B, n)``, from that of one; tried on two.

    They are taken together if all operations of the graph have a batched form, else one by one.
    """

    def together(intermediates: Intermediates, columns: Tensor) -> Tensor:
        if len(columns) == 1:
            return part(*intermediates, columns[0].contiguous()).unsqueeze(0)
        return torch.vmap(lambda column: part(*intermediates, column))(columns.contiguous())

    def one_by_one(intermediates: Intermediates, columns: Tensor) -> Tensor:
        return torch.stack([part(*intermediates, column.contiguous()) for column in columns])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what has no batched form is said to be slow
            both = together(intermediates, torch.stack([vector, -0.5 * vector]))
    except (RuntimeError, UserWarning):
        return one_by_one
    return together if is_close(both, torch.stack([expected, -0.5 * expected])) else one_by_one


def _find_growth(two: Any, three: Any) -> int | None:
    """How much longer a tensor is, or how much larger a size, per sample; None if unclear."""
    if isinstance(two, int):
        return three - two
    if two.shape == three.shape:
        return 0
    by_sample = (len(two), len(three)) == (2, 3) and two.shape[1:] == three.shape[1:]
    return 1 if by_sample else None


def _choose(value: Any, growth: int | None, index: Any, extra: int) -> Any:
    if isinstance(value, int):
        return value + (growth or 0) * extra
    return value[index] if growth else value

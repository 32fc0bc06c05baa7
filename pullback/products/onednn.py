"""Weights in a captured product, packed once for oneDNN on a CPU.

oneDNN works on weights in a layout of its own, and with the channels of a pixel side by side. Left
to itself, PyTorch rearranges both in every call, which costs more than some of the convolutions,
and leaves matrix products to a library that is slower on some processors.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .convolutions import (
    extract_patches,
    flatten_kernel,
    kernel_radius,
    make_subpixel_kernel,
    sum_patches,
)

logger = logging.getLogger("pullback")
aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

# What packing rests on, and is not public.
_PRIVATE = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_linear_pointwise",
    "_reorder_convolution_transpose_weight",
    "_reorder_convolution_weight",
    "_reorder_linear_weight",
)

# oneDNN computes so many channels at a time, also where there are fewer.
_LANES = 16
# Pixels up to which a convolution is a matrix product: oneDNN blocks convolutions by pixels.
_TINY = 4
# Numbers in a matrix up to which it is packed, which makes a copy.
_LARGEST = 2**23

# Not `torch.library.custom_op`, whose checks of every call take longer than a small convolution.
_LIBRARY = torch.library.Library("pullback", "DEF")
_LIBRARY.define(
    "packed_convolution(Tensor x, Tensor packed, Tensor? bias, int[] stride, int[] padding, "
    "int[] dilation, bool transposed, int[] output_padding) -> Tensor"
)
_LIBRARY.define("packed_linear(Tensor x, Tensor packed, Tensor? bias) -> Tensor")


def packed_convolution(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
) -> Tensor:
    """``aten.convolution`` of images ``(B, C, H, W)`` with a weight from :func:`pack`."""
    x = x.contiguous(memory_format=torch.channels_last)
    plain: Any = (1, "none", [], "")  # one group, and nothing done to the result
    if transposed:
        sizes = padding, output_padding, stride, dilation
        return mkldnn._convolution_transpose_pointwise(x, packed, bias, *sizes, *plain)
    return mkldnn._convolution_pointwise(x, packed, bias, padding, stride, dilation, *plain)


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``linear`` of rows ``(…, K)`` with a weight from :func:`pack`."""
    return mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _register(name: str, kernel: Callable[..., Tensor]) -> None:
    """Make a function of a batch an operation, for which vmapped columns are more of the batch."""

    def of_columns(
        info: Any,  # noqa: ARG001
        in_dims: tuple[int | None, ...],
        x: Tensor,
        *args: Any,
    ) -> tuple[Tensor, int]:
        assert in_dims[0] is not None
        columns = x.movedim(in_dims[0], 0)
        result = kernel(columns.flatten(0, 1), *args)
        return result.unflatten(0, columns.shape[:2]), 0

    for backend in ("CPU", "MkldnnCPU"):  # the latter is where packed weights are at home
        _LIBRARY.impl(name, kernel, backend)
    torch.library.register_vmap(f"pullback::{name}", of_columns, lib=_LIBRARY)


_register("packed_convolution", packed_convolution)
_register("packed_linear", packed_linear)


def pack(graph: fx.Graph, linear: set[fx.Node], varying: set[fx.Node]) -> None:
    """Have the weights of layers packed, if they are not ``varying`` from batch to batch.

    From there on images have the channels of a pixel side by side, and so have the factors of what
    is ``linear``. Nothing is done where oneDNN has no such layers.
    """
    missing = [name for name in _PRIVATE if not hasattr(mkldnn, name)]
    if missing:
        logger.info("weights are not packed for oneDNN: PyTorch lacks mkldnn.%s", missing[0])
    elif torch.backends.mkldnn.is_available():
        _pack_matrices(graph, varying)
        _pack_convolutions(graph, linear, varying)


def _pack_matrices(graph: fx.Graph, varying: set[fx.Node]) -> None:
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        x, matrix = node.args
        if _can_be_packed(x, matrix, varying) and _shape(matrix).numel() <= _LARGEST:
            with graph.inserting_before(node):
                weight = graph.call_function(aten.t.default, (matrix,))
                product = _linear(graph, x, weight, None)
            product.meta = node.meta
            node.replace_all_uses_with(product)


def _pack_convolutions(graph: fx.Graph, linear: set[fx.Node], varying: set[fx.Node]) -> None:
    convolutions = graph.find_nodes(op="call_function", target=aten.convolution.default)
    chosen = [node for node in convolutions if _is_plain(node, varying)]
    if not chosen or graph.find_nodes(op="call_function", target=aten.as_strided.default):
        return
    for node in graph.nodes:
        if node in linear and node not in chosen:
            for factor in set(node.all_input_nodes) - linear:
                _channels_last(node, factor)
    for node in chosen:
        if _is_tiny(node):
            _become_matrix_product(node)
        else:
            if _wastes_lanes(node):
                _become_subpixels(node)
            _become_packed(node)


def _can_be_packed(x: fx.Node, weight: fx.Node, varying: set[fx.Node]) -> bool:
    _, _, dtype, device = weight.meta["layout"][0]
    known = x in varying and weight not in varying
    return known and (device.type, dtype) == ("cpu", torch.float32)


def _is_plain(node: Any, varying: set[fx.Node]) -> bool:
    x, weight, _, stride, _, _, _, output_padding, groups = node.args
    return (
        _can_be_packed(x, weight, varying)
        and (len(_shape(weight)), groups) == (4, 1)
        and all(o < s for o, s in zip(output_padding, stride, strict=True))
    )


def _is_tiny(node: Any) -> bool:
    x, weight, bias, _, _, dilation, transposed, _, _ = node.args
    small = x if transposed else node
    return (
        _shape(small)[2:].numel() <= _TINY
        and _shape(weight).numel() <= _LARGEST
        and (bias is None or not transposed)
        and dilation == [1, 1]
    )


def _wastes_lanes(node: Any) -> bool:
    """For a transposed convolution to so few channels that more work is done faster."""
    _, weight, bias, (s, *other_s), (p, *other_p), dilation, transposed, extra, _ = node.args
    _, channels, k, other_k = _shape(weight)
    fits = (
        transposed
        and bias is None
        and [s, p, k] == [*other_s, *other_p, other_k]
        and all(d == 1 and k - 2 * p + more == s for d, more in zip(dilation, extra, strict=True))
    )
    lanes, shuffled = (-(-n // _LANES) for n in (channels, channels * s**2))
    return fits and shuffled * (2 * kernel_radius(k, s, p) + 1) ** 2 < lanes * k**2


def _linear(graph: fx.Graph, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    packed = graph.call_function(mkldnn._reorder_linear_weight.default, (weight,))
    return graph.call_function(torch.ops.pullback.packed_linear.default, (x, packed, bias))


def _become_matrix_product(node: Any) -> None:
    x, weight, bias, stride, padding, _, transposed, output_padding, _ = node.args
    graph, kernel = node.graph, _shape(weight)[2:]
    with graph.inserting_before(node):
        matrix = graph.call_function(flatten_kernel, (weight, transposed))
        if transposed:
            rows = graph.call_function(aten.permute.default, (x, [0, 2, 3, 1]))
        else:
            rows = graph.call_function(extract_patches, (x, kernel, stride, padding))
        product = _linear(graph, rows, matrix, bias)
    if transposed:
        node.target, node.args = sum_patches, (product, kernel, stride, padding, output_padding)
    else:
        node.target, node.args = aten.permute.default, (product, [0, 3, 1, 2])


def _become_subpixels(node: Any) -> None:
    x, weight, bias, (stride, _), (padding, _), dilation, _, _, groups = node.args
    graph, r = node.graph, kernel_radius(_shape(weight)[-1], stride, padding)
    with graph.inserting_before(node):
        kernel = graph.call_function(make_subpixel_kernel, (weight, stride, padding))
    with graph.inserting_after(node):
        image = graph.call_function(aten.pixel_shuffle.default, (node, stride))
    image.meta = node.meta
    node.replace_all_uses_with(image, delete_user_cb=lambda user: user is not image)
    node.args = (x, kernel, bias, [1, 1], [r, r], dilation, False, [0, 0], groups)


def _become_packed(node: Any) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    sizes: tuple[Any, ...] = (padding, stride, dilation, groups)
    reorder = mkldnn._reorder_convolution_weight.default
    if transposed:
        sizes = (padding, output_padding, stride, dilation, groups)
        reorder = mkldnn._reorder_convolution_transpose_weight.default
    with node.graph.inserting_before(node):
        packed = node.graph.call_function(reorder, (weight, *sizes))
    node.target = torch.ops.pullback.packed_convolution.default
    node.args = (x, packed, bias, stride, padding, dilation, transposed, output_padding)


def _channels_last(node: fx.Node, factor: fx.Node) -> None:
    if "layout" in factor.meta and len(_shape(factor)) == 4:
        with node.graph.inserting_before(node):
            moved = node.graph.call_function(
                aten.contiguous.default, (factor,), {"memory_format": torch.channels_last}
            )
        node.replace_input_with(factor, moved)


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["layout"][0][0]  # with two samples

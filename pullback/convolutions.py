"""Convolutions in a traced product: adjoints as convolutions, and weights packed once on a CPU.

oneDNN works on weights in a layout of its own, and with the channels of a pixel side by side. Left
to itself, PyTorch rearranges both in every call, which costs more than some of the convolutions.
"""

from typing import Any

import torch
from torch import Tensor, fx

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn


def adjoint(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,  # noqa: ARG001
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> Any:
    """``aten.convolution_backward``; of the input alone, as the convolution that it is."""
    extra = [0] * len(stride)
    if not transposed:
        extra = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, k, s, p, d in zip(
                x.shape[2:], grad.shape[2:], weight.shape[2:], stride, padding, dilation,
                strict=True,
            )
        ]  # fmt: skip
    fits = not transposed or all(o < s for o, s in zip(output_padding, stride, strict=True))
    if output_mask != [True, False, False] or not fits:
        return NotImplemented
    args = None, stride, padding, dilation, not transposed, extra, groups
    return aten.convolution.default(grad, weight, *args), None, None


@torch.library.custom_op("pullback::packed_convolution", mutates_args=())
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


@packed_convolution.register_vmap
def _columns_are_images(
    info: Any,  # noqa: ARG001
    in_dims: tuple[int | None, ...],
    x: Tensor,
    *args: Any,
) -> tuple[Tensor, int]:
    assert in_dims[0] is not None
    columns = x.movedim(in_dims[0], 0)
    result = packed_convolution(columns.flatten(0, 1), *args)
    return result.unflatten(0, columns.shape[:2]), 0


def pack(graph: fx.Graph, linear: set[fx.Node], varying: set[fx.Node]) -> None:
    """Have the weights of convolutions packed, if they are not ``varying`` from batch to batch.

    From there on images have the channels of a pixel side by side, and so have the factors of what
    is ``linear``. Nothing is done where oneDNN has no such convolution.
    """
    convolutions = graph.find_nodes(op="call_function", target=aten.convolution.default)
    chosen = [node for node in convolutions if _can_be_packed(node, varying)]
    if not chosen or graph.find_nodes(op="call_function", target=aten.as_strided.default):
        return
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        elif node in linear and node not in chosen:
            for factor in set(node.all_input_nodes) - linear:
                _channels_last(node, factor)
    for node in chosen:
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
        sizes: tuple[Any, ...] = (padding, stride, dilation, groups)
        reorder = mkldnn._reorder_convolution_weight.default
        if transposed:
            sizes = (padding, output_padding, stride, dilation, groups)
            reorder = mkldnn._reorder_convolution_transpose_weight.default
        with graph.inserting_before(node):
            packed = graph.call_function(reorder, (weight, *sizes))
        node.target = torch.ops.pullback.packed_convolution.default
        node.args = (x, packed, bias, stride, padding, dilation, transposed, output_padding)


def _can_be_packed(node: Any, varying: set[fx.Node]) -> bool:
    x, weight, _, stride, _, _, _, output_padding, groups = node.args
    shape, _, dtype, device = weight.meta["layout"][0]  # with two samples
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(mkldnn, "_reorder_convolution_weight")
        and (dtype, len(shape), groups) == (torch.float32, 4, 1)
        and all(o < s for o, s in zip(output_padding, stride, strict=True))
        and x in varying
        and weight not in varying
    )


def _channels_last(node: fx.Node, factor: fx.Node) -> None:
    if "layout" in factor.meta and len(factor.meta["layout"][0][0]) == 4:
        with node.graph.inserting_before(node):
            moved = node.graph.call_function(
                aten.contiguous.default, (factor,), {"memory_format": torch.channels_last}
            )
        node.replace_input_with(factor, moved)

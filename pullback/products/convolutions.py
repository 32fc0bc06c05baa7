"""Convolutions as what they also are: their adjoints, matrix products, shuffled pixels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

aten = torch.ops.aten


def convolution_backward(
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


def flatten_kernel(weight: Tensor, transposed: bool) -> Tensor:
    """The matrix from the patches of :func:`extract_patches` to pixels, or the transposed one.

    Args:
        weight: ``(out, in, h, w)``, or ``(in, out, h, w)`` if ``transposed``.

    Returns:
        ``(out, h·w·in)``, or ``(h·w·out, in)``.
    """
    if transposed:
        return weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight.permute(0, 2, 3, 1).flatten(1)


def extract_patches(x: Tensor, kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """What each output pixel of a convolution sees: ``(B, C, H, W) → (B, H', W', h·w·C)``."""
    (h, w), (top, left) = kernel, padding
    image = pad(x, (left, left, top, top)).permute(0, 2, 3, 1)
    seen = image.unfold(1, h, stride[0]).unfold(2, w, stride[1])
    return seen.permute(0, 1, 2, 4, 5, 3).flatten(3)


def sum_patches(
    rows: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
) -> Tensor:
    """The sum of overlapping patches, the adjoint of :func:`extract_patches`.

    Args:
        rows: ``(B, H', W', h·w·C)``, a patch for each pixel of a small image.

    Returns:
        ``(B, C, H, W)``, the result of a transposed convolution.
    """
    sizes = zip(rows.shape[1:3], kernel, stride, padding, output_padding, strict=True)
    height, width = ((n - 1) * s - 2 * p + k + extra for n, k, s, p, extra in sizes)
    tiles = rows.unflatten(3, (*kernel, -1))
    total = tiles.new_zeros(())
    for i in range(rows.shape[1]):
        for j in range(rows.shape[2]):
            top, left = i * stride[0] - padding[0], j * stride[1] - padding[1]
            edges = left, width - kernel[1] - left, top, height - kernel[0] - top
            total = total + pad(tiles[:, i, j], (0, 0, *edges))
    return total.permute(0, 3, 1, 2)


def make_subpixel_kernel(weight: Tensor, stride: int, padding: int) -> Tensor:
    """A transposed convolution as a plain one, to ``stride²`` pixels at once.

    Its result, shuffled to an image (Shi et al., "Real-time single image and video super-resolution
    using an efficient sub-pixel convolutional neural network", 2016), is that of the transposed
    convolution, if that makes images ``stride`` times as large.

    Args:
        weight: ``(in, out, k, k)``.

    Returns:
        ``(out·stride², in, 2r + 1, 2r + 1)``, for a padding of r.
    """
    size = weight.shape[-1]
    before = kernel_radius(size, stride, padding) * stride - padding
    wanted = (2 * kernel_radius(size, stride, padding) + 1) * stride
    padded = pad(weight, (before, wanted - before - size) * 2)
    taps = padded.unflatten(3, (-1, stride)).unflatten(2, (-1, stride)).flip(2, 4)
    return taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous()


def kernel_radius(size: int, stride: int, padding: int) -> int:
    """How many pixels away another one counts."""
    return max((stride - 1 + padding) // stride, (size - 1 - padding) // stride)

"""Convolutions in other forms, and their traced products against the dense Jacobian."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pixel_shuffle

import pullback as pb
from pullback.products import linearize
from pullback.products.captured import CapturedLinearization
from pullback.products.convolutions import (
    extract_patches,
    flatten_kernel,
    kernel_radius,
    make_subpixel_kernel,
    sum_patches,
)
from tests.conftest import dense_jacobian

CONVOLUTIONS = {
    "strides that leave pixels over": (nn.Conv2d(3, 4, 4, stride=3), (8, 9)),
    "padding": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)), (8, 9)),
    "dilation": (nn.Conv2d(3, 4, 3, stride=2, dilation=(2, 1), padding=1), (8, 9)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 5)),
    "channel by channel": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (5, 5)),
    "no bias": (nn.Conv2d(3, 4, 3, bias=False), (5, 5)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 5)),
    "transposed": (nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (4, 5)),
    "transposed, larger": (nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), (4, 5)),
    "transposed, dilated": (
        nn.ConvTranspose2d(3, 4, 3, stride=1, dilation=3, output_padding=2),
        (4, 5),
    ),
    "transposed, groups": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5)),
    "to a tiny image": (nn.Conv2d(5, 20, 4, stride=2, padding=1), (4, 4)),
    "to a single pixel": (nn.Conv2d(5, 20, 4, bias=False), (4, 4)),
    "of a tiny image, with less padding than overlap": (nn.Conv2d(3, 4, 3, padding=2), (1, 2)),
    "from a tiny image": (nn.ConvTranspose2d(3, 4, (4, 3), stride=2, padding=(1, 0)), (2, 2)),
    "from a single pixel": (nn.ConvTranspose2d(6, 4, 2, bias=False), (1, 1)),
    "of colours to many channels": (nn.Conv2d(3, 20, 4, stride=2, padding=1), (8, 10)),
    "to colours": (nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1), (5, 4)),
    "1-d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (12,)),
    "3-d": (nn.Conv3d(2, 3, 3, stride=2, padding=1), (4, 5, 6)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 5])
def test_products_against_the_dense_jacobian(name, dtype, batch):
    layer, size = CONVOLUTIONS[name]
    event = (layer.in_channels, *size)
    net = nn.Sequential(nn.Unflatten(1, event), layer, nn.Tanh(), nn.Flatten()).to(dtype)
    x = torch.rand(batch, torch.Size(event).numel(), dtype=dtype)
    J = dense_jacobian(net, x).detach()
    weights = [p.detach() for p in layer.parameters()]

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        names = [name for name, _ in net.named_parameters()]
        return torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (x,))

    linearization = linearize(function, x, weights, [], None, nn.Identity())
    assert isinstance(linearization, CapturedLinearization)
    for columns in (1, 7):
        v = torch.randn(batch, J.shape[2], columns, dtype=dtype)
        u = torch.randn(batch, J.shape[1], columns, dtype=dtype)
        tolerance = {"rtol": 0.0, "atol": 200 * torch.finfo(dtype).eps * J.norm().item()}
        torch.testing.assert_close(linearization.jvp(v), J @ v, **tolerance)
        torch.testing.assert_close(linearization.vjp(u), J.mT @ u, **tolerance)


def test_weights_may_change_a_little_between_batches():
    weight = torch.randn(4, 3, 3, 3)
    layer = nn.Conv2d(3, 4, 3, bias=False)
    x, v = torch.rand(2, 3, 5, 5), torch.randn(2, 75, 1)
    for encoder, tensor in (
        (pb.as_map(lambda x: nn.functional.conv2d(x, weight)), weight),
        (pb.as_map(layer), layer.weight),
    ):
        before = (pb.jacobian(encoder, x) @ v).detach()
        with torch.no_grad():
            tensor.mul_(1 + 1e-4)
        after = (pb.jacobian(encoder, x) @ v).detach()
        torch.testing.assert_close(after, before * (1 + 1e-4), rtol=1e-6, atol=1e-6)


def test_convolutions_with_a_weight_for_each_batch():
    # A weight that depends on the input cannot be packed beforehand.
    def function(x: Tensor) -> Tensor:
        images = x.unflatten(1, (1, 4, 4))
        return nn.functional.conv2d(images, x[:, :4].sum(0).view(1, 1, 2, 2)).flatten(1)

    x = torch.rand(1, 16)
    J = dense_jacobian(function, x)
    linearization = linearize(function, x, [], [], None, nn.Identity())
    v = torch.randn(1, 16, 1)
    torch.testing.assert_close(linearization.jvp(v), J @ v)


SIZES = st.integers(1, 6)
STRIDES = st.integers(1, 4)


@given(kernel=SIZES, stride=STRIDES, data=st.data())
def test_a_convolution_is_a_matrix_of_its_patches(kernel, stride, data):
    padding = data.draw(st.integers(0, kernel - 1))
    height, width = (data.draw(st.integers(max(1, kernel - 2 * padding), 9)) for _ in "hw")
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    sizes = [kernel] * 2, [stride] * 2, [padding] * 2
    rows = extract_patches(x, *sizes) @ flatten_kernel(weight, False).mT
    expected = conv2d(x, weight, stride=stride, padding=padding)
    torch.testing.assert_close(rows.permute(0, 3, 1, 2), expected)


@given(
    kernel=SIZES, stride=STRIDES, height=st.integers(1, 3), width=st.integers(1, 3), data=st.data()
)
def test_a_transposed_convolution_is_a_sum_of_patches(kernel, stride, height, width, data):
    padding = data.draw(st.integers(0, kernel - 1))
    more = data.draw(st.integers(0, stride - 1))
    sides = [(n - 1) * stride - 2 * padding + kernel + more for n in (height, width)]
    assume(min(sides) > 0)
    x = torch.randn(2, 5, height, width, dtype=torch.float64)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    rows = x.permute(0, 2, 3, 1) @ flatten_kernel(weight, True).mT
    image = sum_patches(rows, [kernel] * 2, [stride] * 2, [padding] * 2, [more] * 2)
    sizes = {"stride": stride, "padding": padding, "output_padding": more}
    torch.testing.assert_close(image, conv_transpose2d(x, weight, **sizes))


@given(stride=STRIDES, padding=st.integers(0, 3), data=st.data())
def test_a_transposed_convolution_is_a_convolution_to_subpixels(stride, padding, data):
    more = data.draw(st.integers(0, stride - 1))
    kernel = stride + 2 * padding - more
    assume(kernel > padding)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    plain = conv2d(
        x,
        make_subpixel_kernel(weight, stride, padding),
        padding=kernel_radius(kernel, stride, padding),
    )
    sizes = {"stride": stride, "padding": padding, "output_padding": more}
    torch.testing.assert_close(pixel_shuffle(plain, stride), conv_transpose2d(x, weight, **sizes))

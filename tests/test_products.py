"""J v and Jᵀu against the dense Jacobian, for the layers that encoders are made of."""

import pytest
import torch
from torch import Tensor, nn

from pullback.products import MAX_BLOCK, Linearization
from tests.conftest import dense_jacobian


class Sequence(nn.Module):
    """An 8×8 image read as eight vectors by a layer that may return its state as well."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x.view(-1, 8, 8))
        return (out[0] if isinstance(out, tuple) else out).flatten(1)


class Attention(nn.Module):
    """PyTorch's fused attention, which cannot be differentiated twice."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(-1, 1, 8, 8)
        return nn.functional.scaled_dot_product_attention(q, 2 * q, q + 1).flatten(1)


def on_images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers, nn.Flatten())


LAYERS = {
    "linear": nn.Linear(64, 5),
    "conv": on_images(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 2, 2)),
    "transposed conv": on_images(nn.ConvTranspose2d(1, 4, 3), nn.SiLU()),
    "pooling": on_images(nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "upsampling": on_images(nn.Upsample(scale_factor=2, mode="bilinear"), nn.GELU()),
    "batch norm": nn.Sequential(nn.BatchNorm1d(64), nn.Softplus()),
    "group norm": on_images(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)),
    "layer norm": nn.Sequential(nn.LayerNorm(64), nn.ELU()),
    "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Linear(64, 3)),
    "lstm": Sequence(nn.LSTM(8, 6, batch_first=True)),
    "gru": Sequence(nn.GRU(8, 6, batch_first=True)),
    "transformer": Sequence(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "attention": Attention(),
    "relu": nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_against_the_dense_jacobian(name, dtype):
    layer = LAYERS[name].to(dtype).eval()
    x = torch.rand(3, 64, dtype=dtype)
    J = dense_jacobian(layer, x).detach()
    linearization = Linearization(layer, x)
    for columns in (1, 4):
        v = torch.randn(3, 64, columns, dtype=dtype)
        u = torch.randn(3, J.shape[1], columns, dtype=dtype)
        tolerance = {"rtol": 0.0, "atol": 200 * torch.finfo(dtype).eps * J.norm().item()}
        torch.testing.assert_close(linearization.jvp(v), J @ v, **tolerance)
        torch.testing.assert_close(linearization.vjp(u), J.mT @ u, **tolerance)


def test_columns_beyond_a_block_and_no_columns():
    layer, x = nn.Linear(64, 5), torch.rand(40, 64)
    columns = 2 * MAX_BLOCK // x.numel() + 3
    v = torch.randn(40, 64, columns)
    linearization = Linearization(layer, x)
    torch.testing.assert_close(linearization.jvp(v), layer.weight.detach() @ v)
    assert linearization.jvp(v[..., :0]).shape == (40, 5, 0)


def test_inside_no_grad_and_inference_mode():
    layer, x, v = nn.Linear(64, 5), torch.rand(2, 64), torch.rand(2, 64, 2)
    expected = layer.weight.detach() @ v
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            product = Linearization(layer, torch.rand(2, 64)).jvp(v)
            assert not product.requires_grad
        torch.testing.assert_close(product, expected)
    assert x.requires_grad is False


def test_products_can_be_differentiated():
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    v = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    u = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)

    def products(x, v, u):
        linearization = Linearization(torch.sin, x, differentiable=True)
        return linearization.jvp(v), linearization.vjp(u)

    assert torch.autograd.gradcheck(products, (x, v, u))

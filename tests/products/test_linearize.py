"""J v and Jᵀu against the dense Jacobian, for the layers that encoders are made of."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.products import MAX_BLOCK, AutogradLinearization, Linearization, linearize
from pullback.products.captured import CapturedLinearization
from pullback.products.linearize import captured_functions
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


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch normalisation, after training and in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net.eval()


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": nn.Linear(64, 5),
    "conv": on_images(nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 2, 2)),
    "transposed conv": on_images(nn.ConvTranspose2d(1, 4, 3), nn.SiLU()),
    "pooling": on_images(nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "upsampling": on_images(nn.Upsample(scale_factor=2, mode="bilinear"), nn.GELU()),
    "batch norm": with_statistics(nn.Sequential(nn.BatchNorm1d(64), nn.Softplus())),
    "batch norm of images": with_statistics(
        on_images(
            nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.Sigmoid()
        )
    ),
    "batch norm of sequences": with_statistics(
        nn.Sequential(nn.Unflatten(1, (4, 16)), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten())
    ),
    "instance norm": on_images(nn.InstanceNorm2d(1), nn.Tanh()),
    "group norm": on_images(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)),
    "layer norm": nn.Sequential(nn.LayerNorm(64), nn.ELU()),
    "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Linear(64, 3)),
    "lstm": Sequence(nn.LSTM(8, 6, batch_first=True)),
    "gru": Sequence(nn.GRU(8, 6, batch_first=True)),
    "transformer": Sequence(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "attention": Attention(),
    "relu": nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4)),
    "relu in place": nn.Sequential(nn.Linear(64, 20), nn.ReLU(inplace=True), nn.Linear(20, 4)),
    "identity": lambda x: x,
}

# Its steps change, in place, what others use.
UNCAPTURED = [LAYERS["gru"]]


def captured(function, x: Tensor) -> Linearization:
    linearization = linearize(function, x, [], [], None, nn.Identity())
    assert isinstance(linearization, CapturedLinearization) == (function not in UNCAPTURED)
    return linearization


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("linearized", [AutogradLinearization, captured])
def test_products_against_the_dense_jacobian(name, dtype, linearized):
    layer = LAYERS[name]
    if isinstance(layer, nn.Module):
        layer.to(dtype).eval()
    x = torch.rand(3, 64, dtype=dtype)
    J = dense_jacobian(layer, x).detach()
    linearization = linearized(layer, x)
    for columns in (1, 4):
        v = torch.randn(3, 64, columns, dtype=dtype)
        u = torch.randn(3, J.shape[1], columns, dtype=dtype)
        tolerance = {"rtol": 0.0, "atol": 200 * torch.finfo(dtype).eps * J.norm().item()}
        torch.testing.assert_close(linearization.jvp(v), J @ v, **tolerance)
        torch.testing.assert_close(linearization.vjp(u), J.mT @ u, **tolerance)


@pytest.mark.parametrize("linearized", [AutogradLinearization, captured])
def test_columns_beyond_a_block_and_no_columns(linearized):
    layer, x = nn.Linear(64, 5), torch.rand(40, 64)
    columns = 2 * MAX_BLOCK // x.numel() + 3
    v = torch.randn(40, 64, columns)
    linearization = linearized(layer, x)
    torch.testing.assert_close(linearization.jvp(v), layer.weight.detach() @ v)
    assert linearization.jvp(v[..., :0]).shape == (40, 5, 0)


def test_inside_no_grad_and_inference_mode():
    layer, x, v = nn.Linear(64, 5), torch.rand(2, 64), torch.rand(2, 64, 2)
    expected = layer.weight.detach() @ v
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            product = AutogradLinearization(layer, torch.rand(2, 64)).jvp(v)
            assert not product.requires_grad
        torch.testing.assert_close(product, expected)
    assert x.requires_grad is False


def test_products_can_be_differentiated():
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    v = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    u = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)

    def products(x, v, u):
        linearization = AutogradLinearization(torch.sin, x, differentiable=True)
        return linearization.jvp(v), linearization.vjp(u)

    assert torch.autograd.gradcheck(products, (x, v, u))


def test_a_captured_function_follows_tensors_and_notices_python():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor, self.weight = 2.0, nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * self.weight * x

    module, x = Scaled(), torch.rand(2, 3)
    encoder = pb.as_map(module)
    hidden = torch.full((3,), 5.0)
    closure = pb.as_map(lambda x: hidden * module(x))

    @torch.no_grad()
    def slope(encoder):
        return (pb.jacobian(encoder, x) @ torch.ones(2, 3, 1))[0, 0, 0].item()

    assert (slope(encoder), slope(closure)) == (2.0, 10.0)
    module.factor = 3.0
    assert (slope(encoder), slope(closure)) == (3.0, 15.0)
    with torch.no_grad():
        module.weight.mul_(2)
        hidden.mul_(2)
    assert (slope(encoder), slope(closure)) == (6.0, 60.0)
    module.weight = nn.Parameter(torch.ones(3))
    hidden = torch.ones(3)
    assert (slope(encoder), slope(closure)) == (3.0, 3.0)


def test_what_cannot_be_captured_is_differentiated_with_one_log_line(caplog):
    def branching(x: Tensor) -> Tensor:
        return 2 * x if float(x.detach().sum()) > 0 else 3 * x

    encoder = pb.as_map(branching)
    with caplog.at_level("INFO", logger="pullback"):
        for x, slope in (
            (torch.ones(2, 3), 2.0),
            (-torch.ones(2, 3), 3.0),
            (torch.ones(2, 3), 2.0),
        ):
            J = pb.jacobian(encoder, x)
            assert (J @ torch.ones(2, 3, 1)).eq(slope).all()
            assert (J.mT @ torch.ones(2, 3, 1)).eq(slope).all()
    assert len(caplog.records) == 1
    assert "not captured" in caplog.text


def test_an_operation_in_place_on_what_is_used_elsewhere_is_not_captured(caplog):
    def spoiling(x: Tensor) -> Tensor:
        y = 2 * x
        z = y.view(-1)
        z.add_(1)
        return y * y

    x = torch.rand(2, 3)
    with caplog.at_level("INFO", logger="pullback"):
        product = pb.jacobian(pb.as_map(spoiling), x) @ torch.ones(2, 3, 1)
    torch.testing.assert_close(product.squeeze(-1), 4 * (2 * x + 1))
    assert "used elsewhere" in caplog.text


def test_results_written_into_a_tensor_given_as_out(caplog):
    net = nn.Linear(6, 4)
    kept = torch.rand(4)
    before = kept.clone()

    def scaled(x: Tensor) -> Tensor:
        factor = kept.clone()
        with torch.no_grad():
            torch.mul(factor, 2, out=factor)
        return factor * net(x)

    encoder, v = pb.as_map(scaled), torch.rand(2, 6, 1)
    expected = (2 * before[:, None] * net.weight.detach()) @ v
    with torch.no_grad(), caplog.at_level("INFO", logger="pullback"):
        for _ in range(2):
            torch.testing.assert_close(pb.jacobian(encoder, torch.rand(2, 6)) @ v, expected)
    assert torch.equal(kept, before)
    assert "given as out=" in caplog.text


def test_eval_mode_batch_norm_and_activations_merge_into_one_scaling():
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).eval()
    linearization = captured(net, torch.rand(3, 6))
    assert isinstance(linearization, CapturedLinearization)
    for part in linearization._graphs.parts:
        operations = [node for node in part.graph.nodes if node.op == "call_function"]
        assert len(operations) == 3  # a matrix product for each layer, and a scaling between


@torch.no_grad()
def test_captured_functions_are_not_copied_or_pickled():
    encoder = pb.as_map(nn.Linear(3, 2))
    _ = pb.jacobian(encoder, torch.rand(2, 3)) @ torch.ones(2, 3, 1)
    assert len(captured_functions(encoder)) == 1
    assert len(captured_functions(copy.deepcopy(encoder))) == 0
    assert len(captured_functions(pickle.loads(pickle.dumps(encoder)))) == 0


def test_one_capture_serves_batches_of_any_size():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    encoder = pb.as_map(lambda x: net(x).reshape(len(x), -1))
    for size in (3, 1, 2, 7, 64):
        x = torch.rand(size, 2, 6, 6)
        expected = dense_jacobian(net, x).detach()
        v = torch.rand(size, 72, 1)
        with torch.no_grad():
            J = pb.jacobian(encoder, x)
            torch.testing.assert_close(J.to_dense(), expected)
            torch.testing.assert_close(J @ v, expected @ v)
    assert len(captured_functions(encoder)) == 1


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([4, 0]), torch.tensor([True] * 5)])
def test_some_samples_of_a_linearisation(index):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(5, 2, 6, 6)
    encoder = pb.as_map(lambda x: (net(x), net(x).square() + 1), "mean_std")
    for J in (
        pb.jacobian(pb.as_map(net), x),
        pb.sampled_metric(encoder, x, generator=torch.Generator()).jacobian,
    ):
        with torch.no_grad():
            whole, v, u = J.to_dense(), torch.rand(5, 72, 2), torch.rand(5, J.shape[1], 2)
            so_far = len(calls)
            part = J[index]
            torch.testing.assert_close(part @ v[index], whole[index] @ v[index])
            torch.testing.assert_close(part.mT @ u[index], whole[index].mT @ u[index])
            assert len(calls) == so_far


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / len(x),
        lambda x: x * torch.tensor(len(x)),
    ],
)
def test_a_function_of_the_size_of_the_batch(function):
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        linearize(function, torch.rand(8, 3), [], [], None, nn.Identity())


def places(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


NUMBERING: dict[str, Callable[[Tensor], Tensor]] = {
    "index_select": lambda x: x.index_select(0, places(x)) ** 2,
    "gather": lambda x: x.gather(0, places(x)[:, None].expand_as(x)) ** 2,
    "embedding": lambda x: nn.functional.embedding(places(x), x) ** 2,
    "index_add": lambda x: torch.zeros_like(x).index_add(0, places(x), x**2),
}


@pytest.mark.parametrize("name", NUMBERING)
def test_maps_that_number_the_samples_of_a_batch(name):
    x = torch.rand(6, 5)
    J = pb.jacobian(NUMBERING[name], x)
    v, dense = torch.rand(6, 5, 2), torch.diag_embed(2 * x)
    torch.testing.assert_close(J @ v, dense @ v)  # which is remembered
    for samples in ([1, 0], [0, 0, 1], [4, 1], [5]):
        some = torch.rand(len(samples), 5, 2)
        torch.testing.assert_close(J[samples] @ some, dense[samples] @ some)
        torch.testing.assert_close(J[samples].mT @ some, dense[samples] @ some)

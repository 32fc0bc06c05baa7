"""Products of maps as other people write them: any layout, any batch, captured where that is right.

Every case is compared with the dense Jacobian; the table says whether graphs of it are captured.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call, jacrev, stack_module_state, vmap
from torch.nn.functional import hardsigmoid, max_pool2d
from torch.utils.checkpoint import checkpoint

import pullback as pb
from pullback.products import AutogradLinearization
from pullback.products.captured import CapturedLinearization
from tests.conftest import dense_jacobian


class Case(NamedTuple):
    """A function of modules, the shape of an input, and whether it is captured."""

    function: Callable[..., Tensor]
    modules: list[nn.Module]
    shape: tuple[int, ...]
    captured: bool = True
    reference: Callable[..., Tensor] | None = None


def tokens(*layers: nn.Module) -> Case:
    net = nn.Sequential(nn.Linear(6, 8), *layers)
    return Case(lambda x, net: net(x).mean(1), [net], (4, 6))


def activated(layer: nn.Module) -> Case:
    return Case(lambda x, net: net(x), [nn.Sequential(nn.Linear(12, 6), layer)], (12,))


def energy_gradient(x: Tensor, net: nn.Module) -> Tensor:
    return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]


def ensemble(x: Tensor, *nets: nn.Module) -> Tensor:
    stacked = stack_module_state(list(nets))
    return vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(*stacked).tanh().mean(0)


def routed(x: Tensor, one: nn.Module, other: nn.Module) -> Tensor:
    chosen = x[:, 0] > 0.5
    out = torch.zeros(len(x), 6, dtype=x.dtype)
    return out.index_put((chosen,), one(x[chosen])).index_put((~chosen,), other(x[~chosen]))


def with_token_set(x: Tensor, net: nn.Module) -> Tensor:
    y = net(x).clone()
    y[:, 0] = 0
    return y.flatten(1)


def spoiling(x: Tensor, net: nn.Module) -> Tensor:
    y = net(x)
    view = y.view(-1)
    view.add_(1)
    return y * y


def anomaly(x: Tensor, net: nn.Module) -> Tensor:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        return net(x).tanh()


IMAGE = (3, 8, 8)
CASES = {
    "tokens": tokens(),
    "transformer": tokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
    "GroupNorm on flattened images": Case(
        lambda x, c, n: n(c(x).flatten(2)).tanh().mean(2),
        [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)],
        IMAGE,
    ),
    "LayerNorm on channels last": Case(
        lambda x, c, n: n(c(x).permute(0, 2, 3, 1)).tanh().mean((1, 2)),
        [nn.Conv2d(3, 8, 3), nn.LayerNorm(8)],
        IMAGE,
    ),
    "tokens to images": Case(
        lambda x, e, n: n(e(x).mT.reshape(len(x), 8, 2, 2)).flatten(1),
        [nn.Linear(6, 8), nn.GroupNorm(2, 8)],
        (4, 6),
    ),
    "channels_last, in place": Case(
        lambda x, net: net(x.to(memory_format=torch.channels_last)).flatten(1),
        [nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(inplace=True))],
        IMAGE,
    ),
    "pooling of transposed tokens": Case(
        lambda x, e: max_pool2d(e(x).mT.reshape(len(x), 8, 2, 2), 2).flatten(1),
        [nn.Linear(6, 8)],
        (4, 6),
    ),
    "depthwise, einsum": Case(
        lambda x, c, w, n: n(torch.einsum("oc,bchw->bohw", w.weight, c(x))).tanh().mean((2, 3)),
        [nn.Conv2d(3, 3, 3, groups=3), nn.Linear(3, 5), nn.GroupNorm(1, 5)],
        IMAGE,
    ),
    "autograd inside": Case(
        energy_gradient, [nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))], (12,)
    ),
    "jacrev inside": Case(
        lambda x, net: vmap(jacrev(lambda y: net(y).sum()))(x),
        [nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))],
        (12,),
        False,
    ),
    "functional_call": Case(
        lambda x, net: functional_call(net, dict(net.named_parameters()), x),
        [nn.Linear(12, 6)],
        (12,),
    ),
    "an ensemble": Case(ensemble, [nn.Linear(12, 6), nn.Linear(12, 6)], (12,)),
    "logcumsumexp": Case(lambda x, net: net(x.logcumsumexp(1)), [nn.Linear(12, 6)], (12,), False),
    "routing by masks": Case(routed, [nn.Linear(12, 6), nn.Linear(12, 6)], (12,), False),
    "a token set": Case(with_token_set, [nn.Linear(6, 8)], (4, 6), False),
    "views changed in place": Case(spoiling, [nn.Linear(12, 6)], (12,), False),
    "anomaly detection": Case(anomaly, [nn.Linear(12, 6)], (12,)),
    "checkpointing": Case(
        lambda x, net: checkpoint(net, x, use_reentrant=False),
        [nn.Sequential(nn.Linear(12, 6), nn.Tanh())],
        (12,),
    ),
    "a distribution": Case(
        lambda x, net: Normal(net(x), 1 + net(x).square()).scale, [nn.Linear(12, 6)], (12,)
    ),
    "input changed in place": Case(
        lambda x, net: net(x.sub_(0.5).div_(0.25)),
        [nn.Linear(12, 6)],
        (12,),
        reference=lambda x, net: net((x - 0.5) / 0.25),
    ),
    "first layer in place": Case(
        lambda x, net: net(x.relu_()),
        [nn.Linear(12, 6)],
        (12,),
        reference=lambda x, net: net(x.relu()),
    ),
    "hardsigmoid": Case(
        lambda x, net: hardsigmoid(net(x)),
        [nn.Linear(12, 6)],
        (12,),
        reference=lambda x, net: (net(x) + 3).clamp(0, 6) / 6,
    ),
    "one value per channel": Case(
        lambda x, net, n: net(x) + n(net(x)),
        [nn.Linear(12, 6), nn.GroupNorm(6, 6)],
        (12,),
        reference=lambda x, net, n: net(x) + n.bias,
    ),
    **{
        f"{type(layer).__name__} in place": activated(layer)
        for layer in (
            nn.SiLU(inplace=True),
            nn.Mish(inplace=True),
            nn.Hardswish(inplace=True),
            nn.ReLU6(inplace=True),
            nn.ELU(inplace=True),
            nn.LeakyReLU(inplace=True),
        )
    },
}


def make(name: str, dtype: torch.dtype) -> tuple[Callable, Callable, tuple[int, ...]]:
    case = CASES[name]
    modules = [module.to(dtype).eval() for module in case.modules]
    reference = case.reference or case.function
    return lambda x: case.function(x, *modules), lambda x: reference(x, *modules), case.shape


@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_products_by_size_and_layout(name, dtype):
    function, reference, shape = make(name, dtype)
    encoder = pb.as_map(function)
    for size in (3, 1, 2):
        x = torch.rand(size, *shape, dtype=dtype)
        before, J = x.clone(), dense_jacobian(reference, x.clone()).detach()
        tolerance = {"rtol": 0.0, "atol": 200 * torch.finfo(dtype).eps * J.norm().item()}
        with torch.no_grad():
            operator = pb.jacobian(encoder, x)
            kind = CapturedLinearization if CASES[name].captured else AutogradLinearization
            assert isinstance(operator._linearization(), kind)
            for columns in (1, 3):
                for v, u in columns_by_layout(J, columns):
                    torch.testing.assert_close(operator @ v, J @ v, **tolerance)
                    torch.testing.assert_close(operator.mT @ u, J.mT @ u, **tolerance)
            expected = torch.linalg.eigvalsh(J.double() @ J.mT.double())[:, -2:].flip(-1)
            found = pb.score(encoder, x, k=2).eigenvalues.double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * expected.max().item())
        assert torch.equal(x, before)


def columns_by_layout(J: Tensor, columns: int) -> list[tuple[Tensor, Tensor]]:
    """Vectors for J and its transposed, contiguous, as rows transposed, and every other one."""
    kinds: list[Callable[[int], Tensor]] = [
        lambda n: torch.randn(len(J), n, columns, dtype=J.dtype),
        lambda n: torch.randn(len(J), columns, n, dtype=J.dtype).mT,
        lambda n: torch.randn(2 * len(J), n, 2 * columns, dtype=J.dtype)[::2, :, ::2],
        lambda n: torch.randn(1, n, columns, dtype=J.dtype).expand(len(J), n, columns),
    ]
    return [(kind(J.shape[2]), kind(J.shape[1])) for kind in kinds]


@pytest.mark.parametrize(
    "take",
    [
        lambda x: x[::5],
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x[..., ::2],
        lambda x: x[:1].expand(4, -1, -1, -1),
        lambda x: x.mT,
        lambda x: x.to(memory_format=torch.channels_last),
    ],
)
def test_inputs_of_any_layout(take):
    x = take(torch.rand(10, 3, 6, 6))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    net(x)
    J = dense_jacobian(net, x.contiguous()).detach()
    v = torch.rand(*J.shape[::2], 2)
    for differentiable in (False, True):
        with torch.set_grad_enabled(differentiable):
            product = pb.jacobian(pb.as_map(lambda x: net(x.view(len(x), -1).view_as(x))), x) @ v
        torch.testing.assert_close(product.detach(), J @ v)


@pytest.mark.parametrize("detect", [True, False])
def test_under_anomaly_detection(detect):
    net, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), torch.rand(3, 6)
    J = dense_jacobian(net, x).detach()
    torch.autograd.set_detect_anomaly(detect)
    try:
        scores = pb.score(net, x, k=2)
    finally:
        torch.autograd.set_detect_anomaly(False)
    torch.testing.assert_close(scores.spectral_radius, torch.linalg.matrix_norm(J, 2) ** 2)


def test_what_a_captured_graph_cannot_do_later_is_done_by_autograd(caplog):
    net, x = nn.Linear(6, 5), torch.rand(4, 6)
    encoder = pb.as_map(net)
    v = torch.rand(4, 6, 2)
    with torch.no_grad(), caplog.at_level("INFO", logger="pullback"):
        operator = pb.jacobian(encoder, x)
        captured = operator._linearization()
        assert isinstance(captured, CapturedLinearization)

        def failing(*_: object) -> Tensor:
            raise RuntimeError("not for this batch")

        captured._graphs.jvp = failing
        torch.testing.assert_close(operator @ v, net.weight @ v)
        torch.testing.assert_close(operator @ v, net.weight @ v)
    assert caplog.text.count("not captured: not for this batch") == 1

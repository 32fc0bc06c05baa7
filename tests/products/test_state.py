"""A result depends on the map's tensors as they are now, on no earlier call and no other thread."""

import copy
import multiprocessing
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.products.checksums import _sum_words, checksums
from tests.conftest import dense_jacobian


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(216, 6)
    ).eval()


X = torch.linspace(0, 1, 5 * 64).sin().reshape(5, 1, 8, 8)


def branching(net: nn.Module):
    """A function that cannot be captured."""
    return lambda x: net(x) if float(x.detach().sum()) > -1e9 else net(2 * x)


ENCODERS = {
    "module": lambda net: net,
    "method": lambda net: net.forward,
    "function": lambda net: lambda x: net(x),
    "not captured": branching,
}


def move_average(net: nn.Module) -> None:
    for own, other in zip(net.parameters(), network(1).parameters(), strict=True):
        own.data.mul_(0.9999).add_(other.data, alpha=1e-4)


def change_through_numpy(net: nn.Module) -> None:
    net.get_parameter("0.weight").detach().numpy()[:] *= 3


def change_order(net: nn.Module) -> None:
    weight = net.get_parameter("4.weight").data
    weight.copy_(weight.roll(1, 1))


CHANGES = {
    "data.mul_": lambda net: net[4].weight.data.mul_(3),
    "data.neg_": lambda net: net[0].weight.data.neg_(),
    "data.clamp_": lambda net: net[0].weight.data.clamp_(-0.1, 0.1),
    "data of a buffer": lambda net: net[1].running_var.data.mul_(4),
    "moving average": move_average,
    "NumPy": change_through_numpy,
    "another order": change_order,
    "in place": lambda net: nn.init.eye_(net[4].weight),
    "another tensor": lambda net: setattr(net[4], "weight", nn.Parameter(torch.eye(6, 216))),
    "an attribute": lambda net: setattr(net[1], "eps", 0.1),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():  # as scores are computed, and products that are captured
        yield


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_next_score_is_that_of_the_new_weights(encoder, change):
    net = network()
    declared = pb.as_map(ENCODERS[encoder](net))
    before = pb.score(declared, X, k=3)
    CHANGES[change](net)
    after = pb.score(declared, X, k=3)
    expected = pb.score(pb.as_map(ENCODERS[encoder](copy.deepcopy(net))), X, k=3)
    assert not torch.allclose(before.eigenvalues, expected.eigenvalues, rtol=1e-5, atol=0)
    torch.testing.assert_close(after.eigenvalues, expected.eigenvalues, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "an attribute"])
def test_products_of_a_metric_follow_too(change):
    net = network()
    declared, v = pb.as_map(lambda x: net(x)), torch.rand(5, 64, 2)
    metric = pb.expected_metric(declared, X)
    _ = metric @ v
    CHANGES[change](net)
    if change == "another tensor":  # a metric is that of the tensors it was made with
        metric = pb.expected_metric(declared, X)
    expected = pb.expected_metric(copy.deepcopy(net), X) @ v
    torch.testing.assert_close(metric @ v, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(3,), (100, 100), (511, 1023)])
@pytest.mark.parametrize("where", ["host", "device"])
def test_a_checksum_shows_every_bit_and_the_order(dtype, shape, where):
    def checksum(tensor: torch.Tensor) -> object:
        return checksums([tensor])[0] if where == "host" else int(_sum_words([tensor]))

    tensor = (100 * torch.randn(shape)).to(dtype)
    first = checksum(tensor)
    assert checksum(tensor.clone()) == first
    flat = tensor.flatten()
    one = flat.clone()
    one[-1] += 1
    for other in (-flat, flat.flip(0), flat.roll(1), one):
        assert checksum(other.reshape(shape)) != first
    assert checksum(tensor[::2]) == checksum(tensor[::2].clone())


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 1)])
def test_expected_and_sampled_metric_of_one_map_in_either_order(order):
    net = nn.Linear(6, 8).double()
    encoder = pb.as_map(lambda x: net(x).sin().chunk(2, 1), "mean_logvar")
    x = torch.rand(3, 6, dtype=torch.float64)
    kinds = [
        lambda: pb.expected_metric(encoder, x),
        lambda: pb.sampled_metric(encoder, x, generator=torch.Generator().manual_seed(1)),
    ]
    v = torch.rand(3, 6, 1, dtype=torch.float64)
    for index in order:
        metric = kinds[index]()
        torch.testing.assert_close(metric @ v, metric.to_dense() @ v)
        with torch.enable_grad():
            plain = kinds[index]() @ v.clone().requires_grad_()
        torch.testing.assert_close(metric @ v, plain.detach())


def test_threads_get_the_right_scores_and_leave_the_module_alone():
    net = network()
    parameters, state = list(net.parameters()), copy.deepcopy(net.state_dict())
    shared = pb.as_map(net)
    xs = [X + 0.1 * i for i in range(4)]
    expected = [pb.score(pb.as_map(network()), x, k=3).eigenvalues for x in xs]
    for _ in range(3):
        found: dict[int, Tensor] = {}

        def work(i: int, found: dict[int, Tensor] = found) -> None:
            encoder = shared if i % 2 else pb.as_map(net.forward)
            found[i] = pb.score(encoder, xs[i], k=3).eigenvalues

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(4):
            torch.testing.assert_close(found[i], expected[i])
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    torch.testing.assert_close(net.state_dict(), state)
    with torch.enable_grad():
        net(X).sum().backward()
    assert all(p.grad is not None for p in parameters)


def test_threads_restore_settings_that_they_share():
    backends: Any = torch.backends  # whose settings mypy does not see
    net, place = network(), backends.mkldnn.matmul
    place.fp32_precision = "bf16"
    try:
        threads = [
            threading.Thread(target=lambda: pb.score(pb.as_map(net), X, k=2)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert place.fp32_precision == "bf16"
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        place.fp32_precision = "none"


def test_autocast_and_default_dtypes_are_put_aside():
    net = network()
    expected = pb.score(pb.as_map(net), X, k=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = pb.score(pb.as_map(net), X, k=3)
    torch.testing.assert_close(lowered.eigenvalues, expected.eigenvalues)
    torch.set_default_dtype(torch.float64)
    try:
        other = pb.score(pb.as_map(net), X, k=3)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(other.eigenvalues, expected.eigenvalues)


def score_in_a_process(seed: int) -> list:
    return pb.score(pb.as_map(network(seed)), X, k=3).eigenvalues.tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_score_after_this_one(method):
    if method == "spawn":
        # What is shown of a fork needs threads that are started before.
        expected = score_in_a_process(0)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map_async(score_in_a_process, [0]).get(120) == [expected]
        return
    code = """
import multiprocessing, torch
from tests.products.test_state import score_in_a_process
torch.set_num_threads(2)
torch.rand(1000, 1000) @ torch.rand(1000, 1000)
expected = score_in_a_process(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(score_in_a_process, [0, 0]).get(60)
torch.testing.assert_close(torch.tensor(found), torch.tensor([expected] * 2))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=150)


@pytest.mark.parametrize("name", ["torch._decomp", "torch.utils._python_dispatch"])
def test_without_private_parts_of_pytorch_products_are_those_of_autograd(name):
    code = f"""
import builtins, logging, sys, torch
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
import pullback as pb
imported = builtins.__import__
def hide(name, globals=None, *others):
    if name == {name!r} and globals["__name__"].startswith("pullback"):
        raise ImportError(f"no module {{name}}")
    return imported(name, globals, *others)
builtins.__import__ = hide
from tests.products.test_state import X, network
net = network()
v = torch.rand(5, 64, 2)
dense = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), X).movedim(1, 0).flatten(2)
torch.set_grad_enabled(False)
J = pb.jacobian(pb.as_map(net), X)
torch.testing.assert_close(J @ v, dense @ v)
torch.testing.assert_close(J.mT @ (J @ v), dense.mT @ (dense @ v))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.count("not captured") == 1
    assert name in done.stdout


def test_without_private_parts_of_onednn_weights_are_not_packed(monkeypatch, caplog):
    monkeypatch.setattr("pullback.products.onednn._PRIVATE", ("_no_such_operation",))
    net = network()
    v = torch.rand(5, 64, 1)
    with caplog.at_level("INFO", logger="pullback"):
        product = pb.jacobian(pb.as_map(net), X) @ v
    assert caplog.text.count("mkldnn._no_such_operation") == 1
    torch.testing.assert_close(product, dense_jacobian(net, X) @ v)


class Sparse(nn.Module):
    """Features averaged over neighbours in a graph, and a layer."""

    neighbours: Tensor

    def __init__(self, layout: torch.layout) -> None:
        super().__init__()
        neighbours = (torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        self.register_buffer("neighbours", neighbours.to_sparse(layout=layout))
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer((self.neighbours @ x.mT).mT).tanh()


@pytest.mark.filterwarnings("ignore:Sparse CS[CR] tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x: net(x)])
def test_sparse_tensors_of_a_map(layout, wrap):
    net, x = Sparse(layout), torch.rand(3, 6)
    encoder = pb.as_map(wrap(net))
    for _ in range(2):
        with torch.enable_grad():
            J = dense_jacobian(net, x).detach()
        metric = pb.expected_metric(encoder, x)
        torch.testing.assert_close(metric.to_dense(), J.mT @ J)
        torch.testing.assert_close(pb.score(encoder, x, k=2).trace, (J**2).sum((1, 2)))
        net.neighbours.values().mul_(2) if layout != torch.sparse_coo else net.neighbours.mul_(2)
        with torch.enable_grad():
            J = dense_jacobian(net, x).detach()
        torch.testing.assert_close(metric.to_dense(), J.mT @ J)


class Permuting(nn.Module):
    """A layer after a permutation, a mask, and a complex factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("order", torch.tensor([3, 0, 5, 1, 4, 2]))
        self.register_buffer("mask", torch.tensor([True, True, False, True, True, True]))
        self.factor = nn.Parameter(torch.rand(4, dtype=torch.complex64))

    def forward(self, x):
        return (self.layer((x * self.mask)[:, self.order]) * self.factor).imag.tanh()


@pytest.mark.parametrize("name", ["order", "mask", "factor"])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x: net(x)])
@pytest.mark.parametrize("differentiable", [False, True])
def test_products_of_a_metric_follow_tensors_that_are_no_floats(name, wrap, differentiable):
    net, x, v = Permuting(), torch.rand(3, 6), torch.rand(3, 6, 1)
    metric = pb.expected_metric(wrap(net), x)
    for _ in range(2):
        with torch.enable_grad():
            J = dense_jacobian(net, x).detach()
        with torch.set_grad_enabled(differentiable):
            torch.testing.assert_close((metric @ v).detach(), J.mT @ (J @ v))
        tensor = getattr(net, name)
        tensor.copy_(tensor.flip(0))


class Gate(nn.Module):
    """Triples what is above a threshold, an attribute in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold, self.layer = 0.5, nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(torch.where(x > self.threshold, 3 * x, x))


@pytest.mark.parametrize("place", range(4))
def test_attributes_that_change_what_happens_to_one_sample(place):
    net, x = Gate(), torch.full((4, 6), 0.9) + torch.rand(4, 6)
    x[place] = 0.6 + 0.01 * torch.rand(6)
    encoder = pb.as_map(net)
    for threshold in (0.5, 0.7, 0.5):
        net.threshold = threshold
        J = dense_jacobian(net, x).detach()
        torch.testing.assert_close(pb.score(encoder, x, k=2).trace, (J**2).sum((1, 2)))


def test_a_map_that_returns_more_than_at_first_says_so():
    net, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.rand(3, 6)
    encoder = pb.as_map(net)
    assert pb.score(encoder, x, k=2).converged.all()
    net[0] = nn.Linear(6, 7)
    with pytest.raises(ValueError, match="returned 7 numbers for a sample, and 4 when it was"):
        pb.score(encoder, x, k=2)

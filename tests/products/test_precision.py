"""Products are in float32 proper, and nobody's settings are changed."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from linear_operator.operators import DenseLinearOperator, RootLinearOperator
from torch import Tensor, nn

import pullback as pb
from pullback.products import captured
from pullback.products.fallback import is_close
from pullback.products.precision import full_precision
from tests.conftest import ConvEncoder

FULL = {"ieee", "none"}


def places(device: str) -> list:
    backends: Any = torch.backends  # whose settings mypy does not see
    if device == "cpu":
        return [backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn]
    return [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]


def precisions(device: str) -> list[str]:
    return [place.fp32_precision for place in places(device)]


@pytest.fixture(autouse=True)
def lowered():
    """Settings that make training faster."""
    before = precisions("cpu"), precisions("cuda")
    for device, setting in (("cpu", "bf16"), ("cuda", "tf32")):
        for place in places(device):
            place.fp32_precision = setting
    yield
    for device, settings in zip(("cpu", "cuda"), before, strict=True):
        for place, setting in zip(places(device), settings, strict=True):
            place.fp32_precision = setting


@pytest.mark.parametrize(("device", "setting"), [("cpu", "bf16"), ("cuda", "tf32")])
def test_settings_are_put_back(device, setting):
    def failing() -> None:
        with full_precision():
            assert set(precisions(device)) <= FULL
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert precisions(device) == [setting] * 3


@pytest.mark.parametrize("traced", [True, False])
def test_products_are_as_accurate_whatever_the_settings(traced):
    encoder = ConvEncoder().eval()

    def outputs(x: torch.Tensor) -> torch.Tensor:
        if not traced:
            _ = x.sum().item()  # a value that Python looks at
        return torch.cat(encoder(x), dim=1)

    x, v = torch.rand(4, 3, 32, 32), torch.randn(4, 3 * 32 * 32, 2)
    J = pb.jacobian(pb.as_map(outputs, returns="mean"), x)
    u = torch.randn(4, J.shape[1], 2)
    found = J @ v, J.mT @ u
    encoder.double()
    exact = pb.jacobian(pb.as_map(outputs, returns="mean"), x.double())
    for a, b in zip(found, (exact @ v.double(), exact.mT @ u.double()), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    assert precisions("cpu") == ["bf16"] * 3


SETUPS: dict[str, Callable[[], None]] = {
    "as they come": lambda: None,
    "all": lambda: set_precision(torch.backends, "tf32"),
    "all of cuDNN": lambda: set_precision(torch.backends.cudnn, "tf32"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "contradictory": lambda: set_precision(torch.backends.cudnn, "ieee"),
}


def set_precision(place: Any, setting: str) -> None:
    place.fp32_precision = setting


def everything() -> list:
    """All settings of precision, older ones included."""
    backends: Any = torch.backends
    shared = [backends, backends.cudnn]
    found = [place.fp32_precision for place in (*shared, *places("cpu"), *places("cuda"))]
    for read in (lambda: backends.cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append("unreadable")
    return found


def require_put_back() -> None:
    for setup, change in SETUPS.items():
        change()
        before = everything()
        with full_precision():
            assert set(everything()) <= {*FULL, "highest", False, "unreadable"}, setup
        assert everything() == before, setup


def test_whatever_was_set_is_raised_and_put_back():
    # In a process of its own: what was never set cannot be put back.
    code = "from tests.products.test_precision import require_put_back; require_put_back()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_map_may_switch_off_cudnn():
    # As for layers that it differentiates only once; PyTorch reads the older settings there.
    net = nn.Linear(6, 4)

    def encode(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return net(x)

    G = pb.expected_metric(pb.as_map(encode), torch.rand(2, 6))
    W = net.weight.double()
    torch.testing.assert_close(G.to_dense(), (W.mT @ W).float().expand(2, 6, 6))


def test_graphs_are_compared_in_full_precision(monkeypatch):
    # Outside of a solver, too: otherwise products on a GPU would not be captured.
    def compare(a: Tensor, b: Tensor) -> bool:
        assert set(precisions("cpu") + precisions("cuda")) <= FULL
        return is_close(a, b)

    monkeypatch.setattr(captured, "is_close", compare)
    x = torch.rand(2, 3, 32, 32)
    J = pb.jacobian(pb.as_map(ConvEncoder().eval(), "mean_logvar"), x)
    with torch.no_grad():
        assert isinstance(J._linearization(), captured.CapturedLinearization)


class Watched(DenseLinearOperator):
    """A matrix that notes the settings under which it is multiplied."""

    def _matmul(self, rhs: Tensor) -> Tensor:
        assert set(precisions("cpu") + precisions("cuda")) <= FULL
        return super()._matmul(rhs)


def test_operators_compute_in_full_precision():
    def encode(x: Tensor) -> Tensor:
        assert set(precisions("cpu") + precisions("cuda")) <= FULL
        return x.tanh()

    x, v = torch.rand(2, 6), torch.rand(2, 6, 1)
    G = pb.PullbackMetric(pb.jacobian(encode, x), Watched(torch.eye(6).expand(2, 6, 6)))
    pb.expected_metric(encode, x, encode)
    pb.sampled_metric(encode, x)
    for product in (lambda: G @ v, G.to_dense, G.diagonal, G.trace):
        product()
        with torch.no_grad():
            product()
    assert precisions("cuda") == ["tf32"] * 3


def test_weights_are_looked_at_in_full_precision():
    root = torch.rand(2, 40, 20)
    metric = pb.PullbackMetric(torch.rand(2, 40, 50), RootLinearOperator(root))
    exact = metric.jacobian.to_dense().double().mT @ root.double()
    torch.testing.assert_close(metric.to_dense().double(), exact @ exact.mT, rtol=1e-5, atol=0)

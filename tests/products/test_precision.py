"""Products are in float32 proper, and nobody's settings are changed."""

from typing import Any

import pytest
import torch

import pullback as pb
from pullback.products.precision import full_precision
from tests.conftest import ConvEncoder


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
            assert precisions(device) == ["ieee"] * 3
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

"""What moves between devices, and what is said of a tensor that does not. No GPU is needed."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from linear_operator.operators import DenseLinearOperator
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import pullback as pb
from pullback.archive import read_manifest
from pullback.attacks import PGDAttack
from pullback.eigen import METHODS, dense
from pullback.eigen.dense import (
    descending_eigh,
    eigvalsh,
    orthonormalise,
    padded_eigh,
    square_root,
    svd,
    tridiagonal_eigh,
)
from tests.conftest import dense_jacobian
from tests.emulation import is_emulated


def moved() -> dict[str, pb.PullbackMetric]:
    metric = pb.expected_metric(nn.Linear(6, 4), torch.rand(2, 6))
    return {
        "a string": metric.to("meta"),
        "a device": metric.to(torch.device("meta")),
        "a keyword": metric.to(device="meta"),
        "with a dtype": metric.to("meta", torch.float64),
        "a tensor": metric.to(torch.empty(0, device="meta")),
    }


@pytest.mark.parametrize("way", moved())
def test_an_operator_moves_as_a_tensor_does(way):
    metric = moved()[way]
    assert metric.device == metric.jacobian.device == torch.device("meta")
    assert metric.dtype == (torch.float64 if way == "with a dtype" else torch.float32)


def test_a_number_on_the_host_is_added_to_the_diagonal(device):
    metric = pb.expected_metric(nn.Linear(6, 4).to(device), torch.rand(2, 6).to(device))
    rhs = torch.rand(2, 6, 1).to(device)
    shifted = metric.add_diagonal(torch.tensor(0.5, device="cpu"))
    assert shifted.solve(rhs).device == rhs.device
    torch.testing.assert_close(shifted @ rhs, metric @ rhs + 0.5 * rhs)


class Scaled(nn.Module):
    """A layer with a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.scale = torch.ones(4, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale


NET, SCALE, COUNTS = nn.Linear(6, 4), Scaled().scale, Scaled().scale.long()
LEFT_BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "scale": Scaled(),
    "0.scale": nn.Sequential(Scaled()),
    "SCALE": lambda x: NET(x) * SCALE,
    "COUNTS": lambda x: NET(x) * COUNTS,
}


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_a_tensor_on_another_device_is_named(name):
    with pytest.raises(TypeError, match=f"but the map's '{name}' is on meta; move one"):
        pb.score(pb.as_map(LEFT_BEHIND[name]), torch.rand(2, 6), k=2)


def test_a_tensor_that_a_metric_leaves_behind_is_named():
    scale = torch.ones(4)
    metric = pb.expected_metric(lambda x: x[:, :4].tanh() * scale, torch.rand(2, 6)).to("meta")
    for grad in (True, False):
        with (
            torch.set_grad_enabled(grad),
            pytest.raises(TypeError, match=r"x is on meta but the map's 'scale' is on .*; move"),
        ):
            metric @ torch.rand(2, 6, 1, device="meta")


def test_a_weight_on_another_device_is_refused():
    weight = torch.eye(4, device="meta")
    with pytest.raises(ValueError, match=r"the weight is on meta but the Jacobian on .*; move one"):
        pb.PullbackMetric(torch.rand(2, 4, 6), weight)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_outputs_on_another_device_are_refused(name):
    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = NET(x), NET(x).exp()
        return (mean.to("meta"), std) if name == "mean" else (mean, std.to("meta"))

    encoder = pb.as_map(encode, "mean_std")
    with pytest.raises(TypeError, match=f"the map's {name} is on meta for inputs on .*; make it"):
        pb.score(encoder, torch.rand(2, 6), k=2)


def test_vectors_on_another_device_are_refused():
    metric = pb.expected_metric(NET, torch.rand(2, 6))
    for operator in (metric, metric.jacobian):
        with pytest.raises(ValueError, match=r"vectors are on meta but the operator on .*; move"):
            operator @ torch.rand(2, 6, 1, device="meta")


def test_the_file_of_an_encoder_may_bring_its_device(device, tmp_path):
    if not is_emulated():
        pytest.skip("needs a device that PyTorch does not know by itself")
    (tmp_path / "encoders.py").write_text(
        f"import {device.type}\nfrom torch import nn\ndef net(): return nn.Linear(6, 4)\n"
    )
    np.savez(tmp_path / "data.npz", images=np.random.default_rng(0).random((9, 6)))
    command = ["score", "--encoder", "encoders.py:net", "--data", "data.npz", "--out", "run"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pullback", *command, "--device", str(device)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "run")["data"]["count"] == 9


class OnTheHost(TorchDispatchMode):
    """Sees that eigenvalues and singular values are computed on the CPU."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("eigh", "svd")):
            self.calls += 1
            assert args[0].device.type == "cpu"
        return func(*args, **(kwargs or {}))


def test_small_eigenproblems_of_a_gpu_are_solved_on_the_host(monkeypatch):
    monkeypatch.setattr(dense, "_require_orthonormal", lambda vectors: None)  # which have no values
    with FakeTensorMode(), OnTheHost() as seen:
        A, diagonal, beside, nothing = (
            torch.empty(3, *shape, device="cuda", dtype=torch.float64)
            for shape in ((40, 40), (40,), (39,), (40, 0))
        )
        found = (
            *descending_eigh(A),
            *padded_eigh(A, torch.ones(3, 40, dtype=torch.bool, device="cuda")),
            *tridiagonal_eigh(diagonal, beside),
            square_root(A),
            orthonormalise(A, nothing),
            eigvalsh(A),
            *svd(A),
        )
        assert all(tensor.device.type == "cuda" for tensor in found)
    assert seen.calls == 8


class Recurrent(nn.Module):
    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = layer(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


class WithoutCudnn(TorchFunctionMode):
    """Sees that recurrent layers run without cuDNN, which has no second derivative of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.lstm, torch.gru, torch.rnn_tanh):
            self.calls += 1
            assert not torch.backends.cudnn.enabled
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_differentiated_without_cudnn(layer):
    encoder, x = pb.as_map(Recurrent(layer).eval()), torch.rand(2, 5, 3)
    J = dense_jacobian(lambda x: encoder(x)[0], x).detach()
    with WithoutCudnn() as seen:
        found = pb.jacobian(encoder, x).to_dense()
    torch.testing.assert_close(found, J)
    assert seen.calls > 0
    assert torch.backends.cudnn.enabled


def test_gradients_of_attacks_are_taken_without_cudnn():
    # Its backward pass is for training mode only.
    encoder, x = pb.as_map(Recurrent(nn.LSTM).eval()), torch.rand(2, 5, 3)
    inputs = PGDAttack(encoder, eps=0.1).attacked.attack(x, ())
    with WithoutCudnn() as seen:
        inputs.ascent(0.1 * torch.rand_like(x))
    assert seen.calls == 1


def test_what_is_made_on_another_device_by_default():
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 12)).double()
    x, gram = torch.rand(3, 20).double(), torch.rand(20, 20).double()
    A = DenseLinearOperator(gram @ gram.mT)

    def results() -> list[Tensor]:
        metric = pb.expected_metric(pb.as_map(net), x)
        return [
            *(pb.eigsh(metric, 2, method).values for method in METHODS),
            pb.eigsh(A, 2).values,
            pb.score(net, x, 2, method="golub-kahan").entropy,
            pb.PullbackMetric(gram[:, :8], A).trace(),
            metric[:, [0, 1], [2, -1]],
            PGDAttack(net, eps=0.1, steps=2, restarts=2, start="eigenvector")(x).latent_distance,
        ]

    expected = results()
    with torch.device("meta"):
        found = results()
    torch.testing.assert_close(found, expected)

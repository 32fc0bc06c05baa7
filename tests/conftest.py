"""Small encoders used throughout the tests."""

import os
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pullback.products import full_precision
from tests.emulation import expect_artefacts, is_emulated, reason_of
from tests.placement import choose_device, is_numerical, put_tensors


class SmoothEncoder(nn.Module):
    """x ↦ (mean, log-variance) through one hidden layer."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 7, dtype=torch.float32) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden, dtype=dtype)
        self.heads = nn.Linear(hidden, 2 * outputs, dtype=dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.hidden(x.flatten(1)).tanh()).chunk(2, dim=1)
        return mean, logvar


class ConvEncoder(nn.Module):
    """A convolutional encoder of 3×32×32 images with batch normalisation."""

    def __init__(self, latent: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Conv2d(8, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.Tanh(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.BatchNorm2d(32),
            nn.Tanh(),
            nn.Flatten(),
        )
        self.heads = nn.Linear(512, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.features(x)).chunk(2, dim=1)
        return mean, logvar


@full_precision()  # convolutions are in TF32 on a GPU unless told
def dense_jacobian(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``(B, M, N)`` of a sample-by-sample function, by reverse mode."""
    jacobian = torch.autograd.functional.jacobian(lambda x: fn(x).flatten(1).sum(0), x)
    return jacobian.movedim(1, 0).flatten(2)


def stacked(
    encoder: Callable[[Tensor], tuple[Tensor, Tensor | None]],
) -> Callable[[Tensor], Tensor]:
    """F = [μ; σ], or μ alone, of a map or the like as one function ``(B, *event) → (B, M)``."""

    def apply(x: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in encoder(x) if part is not None], 1)

    return apply


def prescribed(matrices: Tensor) -> Callable[[Tensor], Tensor]:
    """A map whose Jacobian at any x of sample i is ``matrices[i]``; sample i holds i in x[0]."""

    def apply(x: Tensor) -> Tensor:
        index = x.detach()[:, 0].long().clamp(0, len(matrices) - 1)
        return torch.einsum("bmn,bn->bm", matrices[index], x)

    return apply


def numbered(matrices: Tensor) -> Tensor:
    """The inputs that select each of the matrices of :func:`prescribed`."""
    x = torch.full((len(matrices), matrices.shape[-1]), 0.5, dtype=matrices.dtype)
    x[:, 0] = torch.arange(len(matrices))
    return x


_DEVICE = pytest.StashKey[torch.device]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the device; share the cores; keep deprecated names of jsonargparse silent."""
    config.stash[_DEVICE] = choose_device(config.option.markexpr)
    put_tensors(config.stash[_DEVICE])
    # unittest's assertWarns reads an attribute of every module; jsonargparse warns of the read.
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.hookimpl(tryfirst=True)  # before those are left out that have not the marks asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs on a CUDA device; expect what fails on an emulated one by no fault of ours."""
    if config.stash[_DEVICE].type == "cuda":
        for item in filter(is_numerical, items):
            item.add_marker(pytest.mark.cuda)
    if is_emulated():
        expect_artefacts(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Take what an emulated device does not know for an expected failure."""
    report = yield
    if is_emulated() and report.failed and call.excinfo is not None:
        reason = reason_of(call.excinfo.value)
        if reason is not None:
            report.outcome, report.wasxfail = "skipped", reason
    return report


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Where the tests compute."""
    return pytestconfig.stash[_DEVICE]


@pytest.fixture
def data_folder() -> Path:
    """The folder that holds MNIST and FashionMNIST; tests that need it are skipped without."""
    folder = os.environ.get("PULLBACK_DATA")
    if not folder:
        pytest.skip("PULLBACK_DATA is not set")
    return Path(folder)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


ENCODERS = """
    import time
    import torch
    from torch import nn
    import pullback as pb

    class Pair(nn.Module):
        def __init__(self, outputs=4):
            super().__init__()
            self.net = nn.Linear(16, 2 * outputs)

        def encode(self, x):
            mean, logvar = self.net(x.flatten(1)).chunk(2, 1)
            return mean, logvar

        forward = encode

    def pair():
        return Pair()

    def declared():
        return pb.as_map(Pair().encode, "mean_logvar")

    def wider():
        return pb.as_map(Pair(5).encode, "mean_logvar")

    def function():
        return lambda x: x.flatten(1) * 2

    class Dictionary(Pair):
        def forward(self, x):
            mean, logvar = self.encode(x)
            return {"other": x, "embedding": mean, "log_covariance": logvar}

    def dictionary():
        return Dictionary()

    def hidden():
        pair = Pair()
        return pb.as_map(lambda x: pair.encode(x), "mean_logvar", module=pair)

    def three():
        pair = Pair()
        return pb.as_map(lambda x: (x, *pair.encode(x)), "mean_logvar", pick=(1, 2))

    def number():
        return 3

    def failing():
        return undefined

    def training():
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))

    def dropout():
        return lambda x: nn.functional.dropout(x.flatten(1))

    def overflowing():
        return lambda x: (400 * x.flatten(1)).exp()

    class Slow(Pair):
        def forward(self, x):
            time.sleep(0.1)
            return self.encode(x)

    def slow():
        return pb.as_map(Slow(), "mean_logvar")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with encoders and 30 images, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoders.py").write_text(textwrap.dedent(ENCODERS))
    images = np.random.default_rng(0).random((30, 4, 4), dtype=np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(30) % 3)
    return tmp_path

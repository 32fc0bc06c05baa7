"""`score` against dense float64, its memory, and its independence of the batch."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pullback as pb
from models.vae import MLPVAE
from pullback.products import max_block
from pullback.products.linearize import captured_functions
from tests.conftest import ConvEncoder, SmoothEncoder, dense_jacobian, stacked
from tests.traces.test_spectra import exact_entropy

METHODS = ["auto", "dual", "golub-kahan"]
# What is estimated of each sample, besides directions and errors.
VALUES = [
    "eigenvalues",
    "spectral_radius",
    "trace",
    "entropy",
    "entropy_none",
    "entropy_max",
    "effective_rank",
    "anisotropy",
    "log_volume",
]


def mlp() -> tuple[MLPVAE, Tensor]:
    """The paper's encoder, N = 784 and 2d = 64, with batch statistics that are not trivial."""
    vae = MLPVAE((1, 28, 28))
    vae.train()
    for _ in range(3):
        vae.encode(torch.rand(50, 1, 28, 28))
    return vae.eval(), torch.rand(4, 1, 28, 28)


def conv() -> tuple[nn.Module, Tensor]:
    encoder = ConvEncoder(latent=16)
    for _ in range(3):
        encoder(torch.rand(20, 3, 32, 32))
    return encoder.eval(), torch.rand(4, 3, 32, 32)


ENCODERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"mlp": mlp, "conv": conv}


def as_encoder(net: nn.Module) -> pb.Map:
    return pb.as_map(getattr(net, "encode", net), "mean_logvar")


def dense_root(net: nn.Module, x: Tensor) -> Tensor:
    encoder = as_encoder(copy.deepcopy(net).double())
    return dense_jacobian(stacked(encoder), x.double()).detach()


def check(scores: pb.Scores, root: Tensor) -> None:
    """``root``: a float64 matrix R with G = RᵀR."""
    _, sigma, right = torch.linalg.svd(root, full_matrices=False)
    eigenvalues = sigma.square()
    torch.testing.assert_close(scores.eigenvalues.double(), eigenvalues[:, :5], rtol=1e-5, atol=0.0)
    directions, exact = scores.directions.flatten(2).double(), right[:, :5]
    signs = (directions * exact).sum(-1, keepdim=True).sign()
    assert (directions - signs * exact).norm(dim=-1).max() < 1e-4
    torch.testing.assert_close(scores.trace.double(), eigenvalues.sum(1), rtol=1e-5, atol=0.0)
    for name, normalization in (("", "trace"), ("_none", "none"), ("_max", "max")):
        entropy = getattr(scores, f"entropy{name}")
        for i in range(len(entropy)):
            assert abs(entropy[i] - exact_entropy(eigenvalues[i], normalization)) < 1e-3
    torch.testing.assert_close(scores.spectral_radius, scores.eigenvalues[:, 0])
    torch.testing.assert_close(scores.effective_rank, scores.entropy.exp())
    torch.testing.assert_close(scores.anisotropy, scores.spectral_radius / scores.trace)
    torch.testing.assert_close(
        scores.log_volume.double(), eigenvalues[:, :5].sqrt().log().sum(1), rtol=1e-4, atol=1e-4
    )
    assert scores.converged.all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_accuracy_in_float32(name, method):
    net, x = ENCODERS[name]()
    scores = pb.score(as_encoder(net), x, method=method)
    assert scores.directions.shape == (4, 5, *x.shape[1:])
    check(scores, dense_root(net, x))


@pytest.mark.parametrize("method", METHODS)
def test_accuracy_of_the_combined_metric_in_float32(method):
    net, x = mlp()
    double = copy.deepcopy(net).double()
    J = dense_root(net, x)
    z = double.encode(x.double())[0].detach()
    J_z = dense_jacobian(double.decode, z).detach()
    root = torch.cat([J_z @ J[:, :32], J_z @ J[:, 32:]], dim=1)
    scores = pb.score(as_encoder(net), x, decoder=pb.as_map(net.decode), method=method)
    check(scores, root)


class LargestTensor(TorchDispatchMode):
    """Watches every tensor that any operation makes, in forward and backward passes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.numel = max(self.numel, stored)
        return out


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_no_tensor_of_n_by_n_elements_is_ever_made(name, method, combined):
    net, x = ENCODERS[name]()
    x = torch.rand(64, *x.shape[1:])
    n = x[0].numel()
    decoder: Callable[[Tensor], Tensor] | None = None
    if combined:
        widen = nn.Sequential(nn.Linear(16, n), nn.Sigmoid())
        decoder = net.decode if isinstance(net, MLPVAE) else widen
    with LargestTensor() as watched:
        pb.score(as_encoder(net), x, decoder=decoder, method=method)
    assert 64 * n <= watched.numel < max(n * n, max_block(x.device) + 1)


def test_the_watch_sees_a_dense_metric():
    net, x = mlp()
    with LargestTensor() as watched:
        pb.expected_metric(as_encoder(net), x[:1]).to_dense()
    assert watched.numel >= 784**2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_score_does_not_depend_on_the_batch(name, method):
    net, x = ENCODERS[name]()
    x, encoder = torch.rand(64, *x.shape[1:]), as_encoder(net)
    runs = []
    for size in (1, 7, 64):
        g = torch.Generator().manual_seed(11)
        parts = [pb.score(encoder, part, generator=g, method=method) for part in x.split(size)]
        columns = vars(parts[0]).keys() - {"n_products"}
        runs.append({k: torch.cat([vars(part)[k] for part in parts]) for k in columns})
    for run in runs[1:]:
        for column in VALUES:
            torch.testing.assert_close(run[column], runs[0][column], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(run["directions"], runs[0]["directions"], rtol=0.0, atol=1e-4)


def test_a_zero_metric():
    with pytest.warns(pb.RankWarning):
        scores = pb.score(lambda x: 0 * x, torch.rand(2, 6), k=2)
    for column in (
        scores.trace,
        scores.entropy,
        scores.entropy_none,
        scores.entropy_max,
        scores.effective_rank,
        scores.anisotropy,
        scores.spectral_radius,
    ):
        assert (column == 0).all()
    assert (scores.log_volume == -torch.inf).all()
    assert scores.converged.all()


def test_units():
    # Twice the slope: four times the eigenvalues, the same shape of spectrum.
    x = torch.rand(3, 6)
    net = nn.Linear(6, 4)
    one, two = (pb.score(lambda x, f=f: f * net(x), x, k=3) for f in (1.0, 2.0))
    torch.testing.assert_close(two.eigenvalues, 4 * one.eigenvalues)
    torch.testing.assert_close(two.trace, 4 * one.trace)
    torch.testing.assert_close(two.entropy, one.entropy)
    torch.testing.assert_close(two.entropy_max, one.entropy_max)
    torch.testing.assert_close(two.log_volume, one.log_volume + 3 * torch.tensor(2.0).log())


def test_arguments_are_checked_before_any_work():
    net, x = SmoothEncoder(6, 3), torch.rand(2, 6)
    encoder = pb.as_map(net, "mean_logvar")
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"k={k} must lie between 1 and N = 6"):
            pb.score(encoder, x, k=k)
    with pytest.raises(ValueError, match="method='exact' is not one of"):
        pb.score(encoder, x, method="exact")
    with pytest.raises(ValueError, match="cannot be applied to a batch of shape"):
        pb.score(encoder, x, k=2, decoder=nn.Linear(4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_ordinary_tensors(method, dtype):
    encoder, x = conv()
    scores = pb.score(as_encoder(encoder.to(dtype)), x.to(dtype), k=3, method=method)
    for name, value in vars(scores).items():
        if isinstance(value, Tensor):
            assert not value.is_inference(), name


class Remembering(nn.Module):
    """Makes a table when it is first called, as some positional encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 6)
        return self.layer(x * self.table)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_module_can_be_trained_after_it_was_scored(mode):
    net, x = Remembering(), torch.rand(3, 6)
    encoder = pb.as_map(net)
    with mode():
        pb.score(encoder, x, k=2)
    assert None not in captured_functions(encoder).values()
    net(x).sum().backward()
    assert net.layer.weight.grad is not None


def test_the_entropy_is_as_accurate_as_asked_for():
    eigenvalues = 0.6 ** torch.arange(150, dtype=torch.float64)
    J = torch.linalg.qr(torch.randn(300, 150, dtype=torch.float64))[0].mT
    J = eigenvalues.sqrt().unsqueeze(-1) * J
    encoder, x = pb.as_map(lambda x: x @ J.mT, "mean"), torch.rand(50, 300, dtype=torch.float64)
    p = eigenvalues / eigenvalues.sum()
    exact = -(p * p.log()).sum()
    taken = []
    for tol in (1e-1, 1e-3, 1e-5):
        scores = pb.score(encoder, x, method="golub-kahan", entropy_tol=tol)
        assert (scores.entropy_error <= tol).all()
        within = (scores.entropy - exact).abs() <= 2 * scores.entropy_error
        assert within.double().mean() >= 0.9
        taken.append(scores.n_products)
    assert taken[0] < taken[1] < taken[2]


@pytest.mark.parametrize("tol", [0.0, -1e-3, float("nan"), "1e-3", True])
def test_a_tolerance_is_a_positive_number(tol):
    with pytest.raises(ValueError, match=r"entropy_tol=.* must be a positive, finite number"):
        pb.score(pb.as_map(nn.Linear(3, 2), "mean"), torch.rand(2, 3), 1, entropy_tol=tol)

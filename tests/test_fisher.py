"""The Fisher metric against the second derivative of the KL divergence, and its own derivatives."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

import pullback as pb
from tests.conftest import SmoothEncoder

N, D = 6, 3
DTYPES = [torch.float32, torch.float64]


class Posterior(nn.Module):
    """An encoder that returns a distribution of a few kinds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.net = nn.Sequential(nn.Linear(N, 8), nn.Tanh(), nn.Linear(8, 40))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Distribution:
        y = self.net(x.flatten(1) if shift is None else x.flatten(1) + shift)
        mean = y[:, :D]
        if self.kind == "diagonal":
            return Independent(Normal(mean, (y[:, D : 2 * D] - 1).exp()), 1)
        if self.kind == "grid":  # two Gaussians of two numbers for each sample
            L = y[:, 4:12].reshape(-1, 2, 2, 2).tril() + 1.5 * torch.eye(2, dtype=x.dtype)
            return MultivariateNormal(y[:, :4].reshape(-1, 2, 2), scale_tril=L)
        if self.kind == "full":
            L = y[:, D : D + D * D].reshape(-1, D, D).tril() + 1.5 * torch.eye(D, dtype=x.dtype)
            return MultivariateNormal(mean, scale_tril=L)
        factor = y[:, D : 3 * D].reshape(-1, D, 2)
        return LowRankMultivariateNormal(mean, factor, (y[:, 3 * D : 4 * D] - 1).exp())


KINDS = ["diagonal", "full", "low rank", "grid"]


def posterior(kind: str) -> Posterior:
    torch.manual_seed(3)
    return Posterior(kind).double().eval()


def divergence_hessian(net: Callable[..., Distribution], x: Tensor, *given: Tensor) -> Tensor:
    """∂² KL(q(x) ‖ q(x + η)) at η = 0, of one sample after the other."""

    def of_one(i: int) -> Tensor:
        one, further = x[i : i + 1].detach(), [tensor[i : i + 1] for tensor in given]
        here = net(one, *further)
        flat = torch.autograd.functional.hessian(
            lambda step: kl_divergence(here, net(one + step, *further)).sum(), torch.zeros_like(one)
        )
        return flat.reshape(one.numel(), one.numel())

    return torch.stack([of_one(i) for i in range(len(x))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_divergence_sees(kind, dtype):
    net, x = posterior(kind), torch.rand(4, 2, 3, dtype=torch.float64)
    expected = divergence_hessian(net, x)
    metric = pb.fisher_metric(copy.deepcopy(net).to(dtype), x.to(dtype))
    rtol, atol = (1e-4, 1e-4) if dtype == torch.float32 else (1e-7, 1e-7)
    torch.testing.assert_close(metric.to_dense().double(), expected, rtol=rtol, atol=atol)
    v = torch.rand(4, N, 2, dtype=torch.float64)
    torch.testing.assert_close((metric @ v.to(dtype)).double(), expected @ v, rtol=rtol, atol=atol)
    diagonal = expected.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(metric.diagonal().double(), diagonal, rtol=rtol, atol=atol)


@pytest.mark.parametrize("method", ["auto", "dual", "golub-kahan", "lanczos", "lobpcg", "nystrom"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_spectrum(kind, method):
    net, x = posterior(kind), torch.rand(4, N, dtype=torch.float64)
    if kind != "diagonal" and method in ("golub-kahan", "nystrom"):
        with pytest.raises(ValueError, match="no more rows than columns"):  # (1 + r)·d > N
            pb.eigsh(pb.fisher_metric(net, x), 3, method)
        return
    metric = pb.fisher_metric(net, x)
    exact = torch.linalg.eigvalsh(divergence_hessian(net, x)).flip(-1)
    pairs = pb.eigsh(metric, 3, method)
    torch.testing.assert_close(pairs.values, exact[:, :3], rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(pb.trace(metric).value, exact.sum(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_other_shapes_and_further_arguments(kind):
    net, x = posterior(kind), torch.rand(2, 3, N, dtype=torch.float64)
    expected = divergence_hessian(net, x.flatten(0, 1)).reshape(2, 3, N, N)
    with torch.no_grad():  # a weight with a graph of autograd cannot be copied
        metric = pb.fisher_metric(net, x, batch_dims=2)
    torch.testing.assert_close(metric.to_dense(), expected)
    torch.testing.assert_close(metric[1, :2].to_dense(), expected[1, :2])
    torch.testing.assert_close(metric.expand(4, 2, 3, N, N)[2].to_dense(), expected)
    for copied in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.mT):
        torch.testing.assert_close(copied.to_dense(), expected)
    single = pb.fisher_metric(net, x[0, 0], batch_dims=0)
    torch.testing.assert_close(single.to_dense(), expected[0, 0])
    torch.testing.assert_close(pb.eigsh(single, 2).values, pb.eigsh(metric, 2).values[0, 0])
    shift = torch.rand(3, N, dtype=torch.float64)
    shifted = pb.fisher_metric(pb.as_map(net), x[0], given=(shift,))
    torch.testing.assert_close(shifted.to_dense(), divergence_hessian(net, x[0], shift))


def test_a_map_that_cannot_be_captured():
    net, x = posterior("diagonal"), torch.rand(3, N, dtype=torch.float64)

    def branching(x: Tensor) -> Distribution:
        return net(x) if bool(x.isfinite().all()) else net(0 * x)

    torch.testing.assert_close(
        pb.fisher_metric(branching, x).to_dense(), divergence_hessian(net, x)
    )


@pytest.mark.parametrize("kind", ["diagonal", "low rank"])
def test_two_derivatives_by_inputs_and_parameters(kind):
    net = posterior(kind)
    x = torch.rand(1, N, dtype=torch.float64, requires_grad=True)
    v = torch.rand(1, N, 1, dtype=torch.float64, requires_grad=True)
    bias = dict(net.named_parameters())["net.2.bias"]

    def product(x: Tensor, v: Tensor, _: Tensor) -> Tensor:
        return pb.fisher_metric(net, x) @ v

    assert torch.autograd.gradcheck(product, (x, v, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(product, (x, v, bias), fast_mode=True)
    composed = pb.fisher_metric(net, x).add_diagonal(torch.ones(N, dtype=x.dtype)) @ v
    by_parts = torch.autograd.grad(composed.sum(), (x, bias), retain_graph=True)
    whole = torch.autograd.grad((product(x, v, bias) + v).sum(), (x, bias))
    torch.testing.assert_close(by_parts, whole)


def test_what_has_no_fisher_metric():
    x = torch.rand(3, N)
    with pytest.raises(ValueError, match="but the map is deterministic; declare"):
        pb.fisher_metric(nn.Linear(N, 2), x)

    def vanishing(x: Tensor) -> tuple[Tensor, Tensor]:
        # Not where the map is validated, but in two of the samples.
        return x, torch.where(x[:, :1] < 9, x, 0.0 * x)

    x = torch.rand(4, N) + 0.1
    x[1, 0] = x[3, 0] = 10.0
    with pytest.raises(ValueError, match=r"^the map's std must be positive|in sample 1, 3;"):
        pb.fisher_metric(pb.as_map(vanishing, "mean_std"), x)
    tiny = pb.as_map(lambda x: (x, x * 1e-30), "mean_std")
    with pytest.raises(ValueError, match=r"inverted in torch.float32, in sample 0, 1, 2, 3;"):
        pb.fisher_metric(tiny, x)
    flat = torch.tensor([[1.0, 0.0], [1.0, 0.0]])

    def degenerate(x: Tensor) -> Distribution:
        return MultivariateNormal(x[:, :2], scale_tril=x[:, :1, None] * flat, validate_args=False)

    with pytest.raises(ValueError, match=r"is singular, or too small.* in sample 0, 1, 2, 3;"):
        pb.fisher_metric(degenerate, x)


def test_it_does_not_depend_on_the_unit_of_the_code():
    net, x = SmoothEncoder(N, D, dtype=torch.float64), torch.rand(3, N, dtype=torch.float64)
    one = pb.fisher_metric(pb.as_map(net, "mean_logvar"), x).to_dense()

    def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = net(x)
        return 1e6 * mean, 1e6 * (0.5 * logvar).exp()

    torch.testing.assert_close(pb.fisher_metric(pb.as_map(scaled, "mean_std"), x).to_dense(), one)

"""Derivatives of scores, against those of the dense matrix by autograd and by differences."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

import pullback as pb
from tests.conftest import SmoothEncoder
from tests.test_scores import VALUES

N, D, K = 12, 3, 2
EXACT = ["dual", "auto"]
DTYPES = [torch.float32, torch.float64]


def networks(dtype: torch.dtype = torch.float64) -> tuple[SmoothEncoder, SmoothEncoder]:
    """An encoder and a decoder, whose spectra are neither flat nor clustered."""
    torch.manual_seed(2)
    encoder, decoder = SmoothEncoder(N, D, 16), SmoothEncoder(D, 8, 16)
    with torch.no_grad():
        encoder.hidden.weight *= 3 * torch.logspace(0, -1, N)
    return encoder.to(dtype), decoder.to(dtype)


def root(net: Callable[..., tuple[Tensor, Tensor]], x: Tensor, *given: Tensor) -> Tensor:
    """The stacked Jacobian ``(B, M, N)``, with a graph."""

    def stacked(x: Tensor) -> Tensor:
        mean, logvar = net(x, *given)
        return torch.cat([mean, (0.5 * logvar).exp()], 1).sum(0)

    return torch.autograd.functional.jacobian(stacked, x, create_graph=True).movedim(1, 0)


def dense_scores(J: Tensor, k: int = K) -> dict[str, Tensor]:
    """All scores of JᵀJ, of full row rank."""
    values = torch.linalg.eigvalsh(J @ J.mT if J.shape[-2] < J.shape[-1] else J.mT @ J).flip(-1)
    T = values.sum(-1)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.log()).sum(-1)

    by_trace = entropy(values / T.unsqueeze(-1))
    return {
        "eigenvalues": values[:, :k],
        "spectral_radius": values[:, 0],
        "trace": T,
        "entropy": by_trace,
        "entropy_none": entropy(values),
        "entropy_max": entropy(values / values[:, :1]),
        "effective_rank": by_trace.exp(),
        "anisotropy": values[:, 0] / T,
        "log_volume": 0.5 * values[:, :k].log().sum(-1),
    }


def weighted(values: Tensor) -> Tensor:
    """One number, in which every entry has its own part."""
    return (values * torch.linspace(1, 2, values.numel()).reshape(values.shape).to(values)).sum()


def gradients(score: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(weighted(score), inputs, retain_graph=True))


def assert_same(found: pb.Scores, exact: dict[str, Tensor], inputs: list[Tensor], tol: float):
    for name in VALUES:
        pairs = zip(
            gradients(getattr(found, name), inputs), gradients(exact[name], inputs), strict=True
        )
        for one, other in pairs:
            distance = (one - other).abs().max() / other.abs().max()
            assert distance <= tol, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", EXACT)
def test_exact_where_the_whole_spectrum_is(method, dtype):
    net = networks(dtype)[0]
    x = torch.rand(4, N, dtype=dtype, requires_grad=True)
    found = pb.score(pb.as_map(net, "mean_logvar"), x, K, method=method, differentiable=True)
    inputs = [x, *net.parameters()]
    assert_same(found, dense_scores(root(net, x)), inputs, 2e-3 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("method", ["dual", "golub-kahan", "nystrom"])
def test_with_a_decoder(method):
    nets = networks()
    encoder, decoder = (pb.as_map(net, "mean_logvar") for net in nets)
    x = torch.rand(3, N, dtype=torch.float64, requires_grad=True)
    found = pb.score(encoder, x, K, decoder, method=method, differentiable=True)
    # G_z = RᵀR: the non-zero spectrum is that of blockdiag(R, R) J.
    J_z = root(nets[1], nets[0](x)[0])
    R = torch.linalg.cholesky(J_z.mT @ J_z).mT
    exact = dense_scores(torch.cat([R @ part for part in root(nets[0], x).chunk(2, 1)], 1))
    inputs = [x, *nets[0].parameters(), nets[1].hidden.weight]
    assert_same(found, exact, inputs, 1e-8 if method == "dual" else 1e-2)


@pytest.mark.parametrize("with_decoder", [True, False])
@pytest.mark.parametrize("method", ["dual", "golub-kahan", "lanczos", "lobpcg"])
def test_an_encoder_with_more_outputs_than_inputs(method, with_decoder):
    if with_decoder and method == "golub-kahan":
        pytest.skip("it takes no weighted metric of that kind")
    net, decoder = SmoothEncoder(6, 10, 16, dtype=torch.float64), nn.Linear(10, 30).double()
    encoder, x = pb.as_map(net, "mean_logvar"), torch.rand(3, 6, dtype=torch.float64)
    x.requires_grad_()
    found = pb.score(
        encoder, x, K, decoder if with_decoder else None, method=method, differentiable=True
    )
    J = root(net, x)
    if with_decoder:
        J = torch.block_diag(decoder.weight, decoder.weight) @ J
    exact, inputs = dense_scores(J), [x, net.hidden.weight]
    for name in VALUES if method == "dual" else ["eigenvalues", "spectral_radius", "log_volume"]:
        for one, other in zip(
            gradients(getattr(found, name), inputs), gradients(exact[name], inputs), strict=True
        ):
            assert (one - other).norm() <= 1e-3 * other.norm(), name


def test_by_differences():
    net = networks()[0]
    x = torch.rand(2, N, dtype=torch.float64, requires_grad=True)
    found = pb.score(pb.as_map(net, "mean_logvar"), x, K, differentiable=True)
    step = 1e-5 * torch.randn_like(x)
    ahead, behind = (dense_scores(root(net, (x + sign * step).detach())) for sign in (1, -1))
    for name in VALUES:
        (gradient,) = gradients(getattr(found, name), [x])
        change = weighted(ahead[name] - behind[name]) / 2
        torch.testing.assert_close((gradient * step).sum(), change, rtol=1e-5, atol=1e-12)


def test_estimates_of_a_golub_kahan_run():
    """It stops before it has the whole spectrum, of 60 eigenvalues that decay."""
    J = torch.linalg.qr(torch.randn(80, 60, dtype=torch.float64))[0].mT
    layer, x = nn.Linear(80, 60, bias=False), torch.rand(2, 80, dtype=torch.float64)
    layer.weight = nn.Parameter(0.7 ** torch.arange(60).unsqueeze(-1) * J)
    encoder = pb.as_map(layer)
    exact = dense_scores(layer.weight.double().expand(2, 60, 80))

    def errors(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = pb.score(
            encoder, x, K, generator=generator, method="golub-kahan", differentiable=True
        )
        assert found.entropy_error.max() > 0
        relative = {}
        for name in VALUES:
            one, other = (
                gradients(s, [layer.weight])[0] for s in (getattr(found, name), exact[name])
            )
            relative[name] = (one - other) / other.norm()
        return relative

    several = [errors(seed) for seed in range(12)]
    for name in VALUES:
        each = torch.stack([error[name] for error in several])
        size = each.flatten(1).norm(dim=1).square().mean().sqrt()
        known = name in ("eigenvalues", "spectral_radius", "log_volume")
        assert size < (1e-6 if known else 0.05 if name in ("trace", "anisotropy") else 0.3), name
        assert known or each.mean(0).norm() < 0.4 * size, name  # without bias, they average out


def test_the_sum_of_repeated_eigenvalues():
    Q = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64))[0]
    layer = nn.Linear(10, 4, bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(torch.tensor([3.0, 3.0, 2.0, 1.0])[:, None].double() * Q[:4])
    x = torch.rand(1, 10, dtype=torch.float64)
    found = pb.score(pb.as_map(layer), x, 2, differentiable=True)
    # ∂(λ₁ + λ₂) = 2 W P, with the projector P onto their space.
    (gradient,) = torch.autograd.grad(found.eigenvalues.sum(), layer.weight, retain_graph=True)
    expected = 2 * layer.weight @ Q[:2].mT @ Q[:2]
    torch.testing.assert_close(gradient, expected)
    # One of them by itself: a subgradient 2 W v vᵀ, v in that space.
    (gradient,) = torch.autograd.grad(found.spectral_radius.sum(), layer.weight)
    v = found.directions[0, 0]
    torch.testing.assert_close(gradient, 2 * layer.weight @ v.outer(v))


class Posterior(nn.Module):
    """Correlated noise, and a further argument for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmoothEncoder(N, 3, 8, dtype=torch.float64)

    def forward(self, x: Tensor, shift: Tensor) -> Distribution:
        mean, y = self.net(x + shift)
        L = y[:, :2, None] * y[:, None, 1:].tril() + torch.eye(2, dtype=x.dtype)
        return MultivariateNormal(mean[:, :2], scale_tril=L)


def test_correlated_noise_and_further_arguments():
    net = Posterior()
    x = torch.rand(3, N, dtype=torch.float64, requires_grad=True)
    shift = torch.rand(3, N, dtype=torch.float64)

    def stacked(x: Tensor) -> Tensor:
        q = net(x, shift)
        assert isinstance(q, MultivariateNormal)
        return torch.cat([q.mean, q.scale_tril.flatten(1)], 1).sum(0)

    J = torch.autograd.functional.jacobian(stacked, x, create_graph=True).movedim(1, 0)
    found = pb.score(pb.as_map(net), x, K, given=(shift,), differentiable=True)
    exact = torch.linalg.eigvalsh(J.mT @ J).flip(-1)
    inputs = [x, *net.parameters()]
    pairs = [(found.eigenvalues, exact[:, :K]), (found.trace, exact.sum(-1))]
    for one, other in pairs:
        torch.testing.assert_close(gradients(one, inputs), gradients(other, inputs))


def test_a_map_that_cannot_be_captured_and_hides_its_network():
    net = networks()[0]
    x = torch.rand(3, N, dtype=torch.float64, requires_grad=True)

    def branching(x: Tensor, net: nn.Module = net) -> tuple[Tensor, Tensor]:
        return net(x) if bool(x.isfinite().all()) else net(0 * x)

    found = pb.score(pb.as_map(branching, "mean_logvar"), x, K, differentiable=True)
    assert_same(found, dense_scores(root(net, x)), [x, *net.parameters()], 1e-8)


def test_values_stay_the_same_and_nothing_is_taken_by_default():
    net = networks(torch.float32)[0]
    encoder, x = pb.as_map(net, "mean_logvar"), torch.rand(3, N)
    plain = pb.score(encoder, x, K)
    found = pb.score(encoder, x, K, differentiable=True)
    assert plain.n_products < found.n_products
    for name, value in vars(plain).items():
        if isinstance(value, Tensor):
            assert not value.requires_grad
            assert torch.equal(value, getattr(found, name)), name
            assert getattr(found, name).requires_grad == (name in VALUES)
    with torch.no_grad():
        assert not pb.score(encoder, x, K, differentiable=True).trace.requires_grad
    x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pb.score(encoder, x, K, differentiable=True)
    with pytest.warns(UserWarning, match="score is not differentiable"):
        assert not pb.score(encoder, x, K).trace.requires_grad


@pytest.mark.parametrize("method", ["dual", "golub-kahan", "lanczos"])
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_derivatives_are_finite_without_rank(method):
    x = torch.rand(3, 6, requires_grad=True)
    slopes = torch.tensor([[0.0], [1.0], [2.0]])  # one sample of which has a zero metric
    given = (slopes,)

    def fn(x: Tensor, slope: Tensor) -> Tensor:
        return slope * torch.stack([x[:, 0].sin(), x[:, 1] ** 2], 1)

    found = pb.score(pb.as_map(fn), x, 3, method=method, given=given, differentiable=True)
    assert (found.log_volume == -torch.inf).all()
    for name in VALUES:
        (gradient,) = gradients(getattr(found, name).nan_to_num(neginf=0.0), [x])
        assert gradient.isfinite().all(), name
        assert (gradient[0] == 0).all(), name
    (gradient,) = gradients(found.trace, [x])
    expected = torch.zeros(3, 6)
    expected[:, 0] = -(2 * x.detach()[:, 0]).sin() * torch.tensor([0.0, 1.5, 8.0])
    expected[:, 1] = 8 * x.detach()[:, 1] * torch.tensor([0.0, 1.5, 8.0])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_gradient_descent_lowers_the_spectral_radius():
    net = networks(torch.float32)[0]
    before = copy.deepcopy(net)
    encoder, x = pb.as_map(net, "mean_logvar"), torch.rand(8, N)
    optimizer, radii = torch.optim.SGD(net.parameters(), lr=0.01), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = pb.score(encoder, x, differentiable=True).spectral_radius.mean()
        loss.backward()
        optimizer.step()
        radii.append(loss.item())
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] < 0.9 * radii[0]
    assert not torch.equal(before.hidden.weight, net.hidden.weight)

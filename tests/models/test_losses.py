"""The objectives against their definitions, and the identities between them."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Beta, MultivariateNormal, Normal, kl_divergence
from torch.linalg import vector_norm

from models import losses


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def codes(batch: int, latent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample, mean and log-variance of q(z | x)."""
    mean, logvar = doubles(batch, latent), doubles(batch, latent)
    return mean + doubles(batch, latent) * (0.5 * logvar).exp(), mean, logvar


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.5])
@pytest.mark.parametrize("likelihood", ["gaussian", "learned", "bernoulli"])
def test_the_elbo_against_torch_distributions(beta, likelihood):
    x, y = torch.rand(2, 4, 1, 3, 3, dtype=torch.float64)
    _, mean, logvar = codes(4, 2)
    own = None
    if likelihood == "gaussian":
        # Variance ½ makes minus the log-density the squared error, up to a constant.
        density = Normal(y, 0.5**0.5)
        log_p = density.log_prob(x) - density.log_prob(y)
    elif likelihood == "learned":
        likelihood, own = "gaussian", doubles(4, 1, 3, 3)
        log_p = Normal(y, (0.5 * own).exp()).log_prob(x)
    else:
        log_p = Bernoulli(y, validate_args=False).log_prob(x)
    q = Normal(mean, (0.5 * logvar).exp())
    divergence = kl_divergence(q, Normal(torch.zeros(2).double(), torch.ones(2).double()))
    expected = (-log_p.sum((1, 2, 3)) + beta * divergence.sum(1)).mean()
    found = losses.negative_elbo(x, y, mean, logvar, beta, likelihood, own)
    torch.testing.assert_close(found, expected)


def estimate(z, mean, logvar):
    """Of E[log q(z | x) − log p(z)], from the samples."""
    log_q = Normal(mean, (0.5 * logvar).exp()).log_prob(z)
    log_p = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
    return (log_q - log_p).sum(1).mean()


@pytest.mark.parametrize("data_size", [6, 60_000])
def test_the_parts_of_the_divergence_sum_to_its_estimate(data_size):
    code = codes(6, 3)
    parts = losses.decompose_divergence(*code, data_size)
    torch.testing.assert_close(sum(parts), estimate(*code))


def test_the_parts_against_weighted_sampling_written_out():
    z, mean, logvar = codes(5, 2)
    size, std = 40, (0.5 * logvar).exp()
    # Entry (i, j, k): the density of z_i in dimension k under the code of image j.
    q = Normal(mean, std).log_prob(z[:, None]).exp().tolist()
    joint = [sum(math.prod(q[i][j]) for j in range(5)) / (5 * size) for i in range(5)]
    single = [
        math.prod(sum(q[i][j][k] for j in range(5)) / (5 * size) for k in range(2))
        for i in range(5)
    ]
    parts = losses.decompose_divergence(z, mean, logvar, size)
    information = sum(math.log(math.prod(q[i][i]) / joint[i]) for i in range(5)) / 5
    correlation = sum(math.log(a / b) for a, b in zip(joint, single, strict=True)) / 5
    assert parts.mutual_information.item() == pytest.approx(information)
    assert parts.correlation.item() == pytest.approx(correlation)


def test_the_total_correlation_of_a_known_gaussian():
    """Narrow codes at correlated means: q(z) is nearly a Gaussian of known correlation."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    mean = MultivariateNormal(torch.zeros(2).double(), covariance).sample((2000,))
    logvar = torch.full_like(mean, math.log(0.02))
    z = mean + 0.02**0.5 * torch.randn_like(mean)
    # The estimate of q(z), and of each q(z_k), is too small by a factor N; so take N = 1.
    found = losses.decompose_divergence(z, mean, logvar, 1).correlation.item()
    blurred = covariance + 0.02 * torch.eye(2).double()
    exact = 0.5 * (blurred.diagonal().log().sum() - blurred.logdet()).item()
    assert found == pytest.approx(exact, rel=0.1)


def test_tcvae_with_beta_one_is_the_elbo_of_one_sample():
    x, y = torch.rand(2, 6, 1, 3, 3, dtype=torch.float64)
    code = codes(6, 3)
    misfit = (x - y).square().sum((1, 2, 3)).mean()
    one, three = (losses.negative_tcvae(x, y, *code, beta, data_size=100) for beta in (1.0, 3.0))
    torch.testing.assert_close(one, misfit + estimate(*code))
    correlation = losses.decompose_divergence(*code, data_size=100).correlation
    torch.testing.assert_close(three - one, 2 * correlation)


@pytest.mark.parametrize("objective", ["elbo", "tcvae"])
def test_gradients_of_the_objectives(objective):
    x, y = torch.rand(2, 3, 4, dtype=torch.float64)
    z, mean, logvar = codes(3, 2)

    def elbo(y: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        return losses.negative_elbo(x, y, mean, logvar, beta=0.5)

    def tcvae(y: Tensor, mean: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        return losses.negative_tcvae(x, y, z, mean, logvar, beta=0.5, data_size=9)

    inputs = [t.requires_grad_() for t in (y, mean, logvar, z)]
    if objective == "elbo":
        assert torch.autograd.gradcheck(elbo, inputs[:3])
    else:
        assert torch.autograd.gradcheck(tcvae, inputs)


def test_the_mixup_penalty_is_zero_for_linear_maps():
    """A linear encoder and its right inverse commute with mixing; another decoder does not."""
    pairs = losses.draw_pairs(7, torch.Generator().manual_seed(3))
    A = torch.linalg.qr(doubles(4, 4)).Q
    x = doubles(7, 1, 2, 2)
    z = x.flatten(1) @ A
    mixed_x, mixed_z = pairs.mix(x), pairs.mix(z)
    encoded, decoded = mixed_x.flatten(1) @ A, (mixed_z @ A.T).view_as(x)
    assert losses.mixup_penalty(mixed_z, encoded, mixed_x, decoded) < 1e-14
    shifted = losses.mixup_penalty(mixed_z, encoded + 2, mixed_x, decoded - 1)
    torch.testing.assert_close(shifted.item(), 4.0 + 2.0)


def test_the_mixup_penalty_averages_norms_over_the_batch():
    z, f, x, g = doubles(5, 3), doubles(5, 3), doubles(5, 1, 2, 2), doubles(5, 1, 2, 2)
    expected = [vector_norm(z[i] - f[i]) + vector_norm(g[i] - x[i]) for i in range(5)]
    found = losses.mixup_penalty(z, f, x, g)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    # At zero, where the norm has no gradient, none is made up.
    z.requires_grad_()
    losses.mixup_penalty(z, z.detach(), x, x).backward()
    assert (z.grad == 0).all()


def test_the_squared_penalty_against_its_definition():
    z, f, x, g = doubles(5, 3), doubles(5, 3), doubles(5, 1, 2, 2), doubles(5, 1, 2, 2)
    expected = [vector_norm(z[i] - f[i]) ** 2 + vector_norm(g[i] - x[i]) ** 2 for i in range(5)]
    found = losses.mixup_penalty(z, f, x, g, squared=True)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_pairs():
    pairs = losses.draw_pairs(20_000, torch.Generator().manual_seed(0))
    assert pairs.partner.sort().values.equal(torch.arange(20_000))
    law = Beta(torch.tensor(0.5), torch.tensor(0.5))
    assert pairs.weight.mean().item() == pytest.approx(law.mean.item(), abs=0.01)
    assert pairs.weight.var().item() == pytest.approx(law.variance.item(), abs=0.005)
    # The distribution function of the arcsine law at ¼.
    assert (pairs.weight < 0.25).float().mean().item() == pytest.approx(1 / 3, abs=0.01)
    x = doubles(20_000, 2)
    i, a, j = 11, pairs.weight[11].double(), pairs.partner[11]
    torch.testing.assert_close(pairs.mix(x)[i], a * x[i] + (1 - a) * x[j])


@pytest.mark.parametrize("count", [2, 3, 128])
def test_no_image_is_mixed_with_itself(count):
    generator, one = torch.Generator().manual_seed(0), torch.arange(count)
    drawn = torch.stack([losses.draw_pairs(count, generator).partner for _ in range(300)])
    assert not (drawn == one).any()
    # Every other image is the partner of the first about as often.
    often = torch.bincount(drawn[:, 0], minlength=count)[1:]
    assert often.float().mean() == pytest.approx(300 / (count - 1))
    assert often.max() < 300 / (count - 1) + 6 * (300 / (count - 1)) ** 0.5


def test_one_weight_for_a_batch():
    pairs = losses.draw_pairs(9, torch.Generator().manual_seed(0), one_weight=True)
    assert pairs.weight.shape == (9,)
    assert (pairs.weight == pairs.weight[0]).all()


def test_samples_have_the_law_of_the_encoder():
    mean, logvar = torch.full((50_000, 1), 2.0), torch.full((50_000, 1), math.log(9.0))
    one, two = (losses.sample(mean, logvar, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.mean().item() == pytest.approx(2, abs=0.05)
    assert one.std().item() == pytest.approx(3, abs=0.05)


def test_what_is_refused():
    x = torch.rand(2, 3)
    with pytest.raises(
        ValueError, match="likelihood='poisson' is not one of 'gaussian', 'bernoulli'"
    ):
        losses.negative_log_likelihood(x, x, "poisson")
    with pytest.raises(ValueError, match=r"'bernoulli' has no variance to learn; .* 'gaussian'"):
        losses.negative_log_likelihood(x, x, "bernoulli", x)

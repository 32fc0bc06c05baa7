"""The architecture of Appendix A, and the β-ELBO against its definition."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import pullback as pb
from models.vae import MLPVAE, mnist_encoder, negative_elbo


def widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_layers_are_those_of_the_paper():
    vae = MLPVAE((1, 28, 28))
    assert widths(vae.features) == [(784, 256), (256, 256), (256, 512), (512, 32)]
    assert widths(vae.mean) == widths(vae.logvar) == [(32, 32)]
    assert widths(vae.decoder) == [(32, 32), (32, 512), (512, 256), (256, 256), (256, 784)]
    # Batch normalisation right before every tanh.
    for part in (vae.features, vae.decoder):
        layers = list(part)
        places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Tanh)]
        assert len(places) == 4
        assert all(isinstance(layers[i - 1], nn.BatchNorm1d) for i in places)


def test_shapes_and_range():
    vae = MLPVAE((1, 8, 8), hidden=(16, 12), latent=3).eval()
    x = torch.rand(5, 1, 8, 8)
    reconstruction, mean, logvar = vae(x)
    assert reconstruction.shape == x.shape
    assert mean.shape == logvar.shape == (5, 3)
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    again = MLPVAE(**vae.config)
    again.load_state_dict(vae.state_dict())
    torch.testing.assert_close(again.eval().encode(x), vae.encode(x))


def test_the_factory_for_the_command_line():
    assert pb.score(mnist_encoder(), torch.rand(2, 1, 28, 28)).converged.all()


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.5])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_objective_against_torch_distributions(beta, likelihood):
    x, y = torch.rand(4, 1, 3, 3, dtype=torch.float64), torch.rand(4, 1, 3, 3, dtype=torch.float64)
    mean = torch.randn(4, 2, dtype=torch.float64)
    logvar = torch.randn(4, 2, dtype=torch.float64)
    if likelihood == "gaussian":
        # Variance ½ makes minus the log-density the squared error, up to a constant.
        density = Normal(y, 0.5**0.5)
        log_p = density.log_prob(x) - density.log_prob(y)
    else:
        log_p = Bernoulli(y, validate_args=False).log_prob(x)
    q = Normal(mean, (0.5 * logvar).exp())
    divergence = kl_divergence(q, Normal(torch.zeros(2).double(), torch.ones(2).double()))
    expected = (-log_p.sum((1, 2, 3)) + beta * divergence.sum(1)).mean()
    torch.testing.assert_close(negative_elbo(x, y, mean, logvar, beta, likelihood), expected)


def test_an_unknown_likelihood():
    x, z = torch.rand(2, 3), torch.rand(2, 1)
    with pytest.raises(ValueError, match="likelihood='poisson' is not one of gaussian, bernoulli"):
        negative_elbo(x, x, z, z, 1.0, "poisson")

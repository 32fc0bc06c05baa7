"""The architectures of Appendix A, and the β-ELBO against its definition."""

import json

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import pullback as pb
from models.vae import MLPVAE, ConvVAE, mnist_encoder, negative_elbo, photo_encoder


def widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def filters(module: nn.Module, kind: type[nn.Module]) -> list[tuple[int, int]]:
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, kind)]


def normalised(part: nn.Sequential) -> list[type[nn.Module]]:
    """What comes right before each tanh."""
    layers = list(part)
    return [type(layers[i - 1]) for i, layer in enumerate(layers) if isinstance(layer, nn.Tanh)]


def test_layers_are_those_of_the_paper():
    vae = MLPVAE((1, 28, 28))
    assert widths(vae.features) == [(784, 256), (256, 256), (256, 512), (512, 32)]
    assert widths(vae.mean) == widths(vae.logvar) == [(32, 32)]
    assert widths(vae.decoder) == [(32, 32), (32, 512), (512, 256), (256, 256), (256, 784)]
    assert normalised(vae.features) == normalised(vae.decoder) == 4 * [nn.BatchNorm1d]


def test_convolutions_are_those_of_the_paper():
    vae = ConvVAE()
    expected = [(3, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    assert filters(vae.features, nn.Conv2d) == expected
    backwards = [(outputs, inputs) for inputs, outputs in reversed(expected)]
    assert filters(vae.decoder, nn.ConvTranspose2d) == [(1024, 512), *backwards]
    assert widths(vae.features) == [(512 * 2 * 2, 128)]
    assert widths(vae.mean) == widths(vae.logvar) == [(128, 128)]
    assert widths(vae.decoder) == [(128, 1024)]
    assert normalised(vae.features) == [*5 * [nn.BatchNorm2d], nn.BatchNorm1d]
    assert normalised(vae.decoder) == [nn.BatchNorm1d, *5 * [nn.BatchNorm2d]]


def test_the_decoder_has_the_maps_of_the_encoder_in_reverse():
    vae = ConvVAE().eval()
    shapes: dict[nn.Module, list[torch.Size]] = {vae.features: [], vae.decoder: []}
    for part, seen in shapes.items():
        for layer in part:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1].shape))
    x = torch.rand(1, 3, 64, 64)
    vae(x)
    encoded, decoded = shapes.values()
    assert encoded[-1] == (1, 512, 2, 2)
    assert decoded == [*reversed(encoded), x.shape]


@pytest.mark.parametrize(
    "vae",
    [
        MLPVAE((1, 8, 8), hidden=(16, 12), latent=3),
        ConvVAE((1, 8, 8), filters=(4, 6), units=(7, 9), latent=3),
        ConvVAE((3, 8, 24), filters=(4, 6, 8), units=(7, 9), latent=3),
    ],
    ids=["dense", "convolutional", "oblong"],
)
def test_shapes_and_range(vae):
    vae.eval()
    x = torch.rand(5, *vae.event_shape)
    reconstruction, mean, logvar = vae(x)
    assert reconstruction.shape == x.shape
    assert mean.shape == logvar.shape == (5, 3)
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    again = type(vae)(**json.loads(json.dumps(vae.config)))
    assert again.config == vae.config
    again.load_state_dict(vae.state_dict())
    torch.testing.assert_close(again.eval().encode(x), vae.encode(x))


@pytest.mark.parametrize("shape", [(3, 60, 64), (3, 64, 16), (64, 64), (3, 0, 64)])
def test_images_that_cannot_be_halved(shape):
    with pytest.raises(ValueError, match=r"cannot be halved 5 times; .* multiples of 32"):
        ConvVAE(shape)


def test_the_factories_for_the_command_line():
    assert pb.score(mnist_encoder(), torch.rand(2, 1, 28, 28)).converged.all()
    assert pb.score(photo_encoder(), torch.rand(1, 3, 64, 64), k=1).converged.all()


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

"""The architectures of Appendix A, with fixed and with learned variance."""

import json

import pytest
import torch
from torch import nn

import pullback as pb
from models.vae import MLPVAE, SMALLEST_STD, ConvVAE, mnist_encoder, photo_encoder
from tests.conftest import dense_jacobian


def widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def filters(
    module: nn.Module, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]
) -> list[tuple[int, int]]:
    return [(m.in_channels, m.out_channels) for m in module.modules() if isinstance(m, kind)]


def normalised(part: nn.Module) -> list[type[nn.Module]]:
    """What comes right before each tanh."""
    layers = list(part.children())
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
        for layer in part.children():
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
        MLPVAE((1, 8, 8), hidden=(16, 12), latent=3, learned_variance=True),
        ConvVAE((3, 8, 8), filters=(4, 6), units=(7, 9), latent=3, learned_variance=True),
    ],
    ids=["dense", "convolutional", "oblong", "dense, variance", "convolutional, variance"],
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


@pytest.mark.parametrize(
    "vae",
    [
        MLPVAE((1, 4, 4), hidden=(16, 12), latent=3, learned_variance=True),
        ConvVAE((2, 4, 4), filters=(4, 6), units=(7, 9), latent=3, learned_variance=True),
    ],
    ids=["dense", "convolutional"],
)
def test_a_learned_variance(vae):
    vae.double().eval()
    z = torch.randn(5, 3, dtype=torch.float64)
    mean, logvar = vae.decode_distribution(z)
    assert mean.shape == logvar.shape == (5, *vae.event_shape)
    torch.testing.assert_close(mean, vae.decode(z))
    # However small the network would have it, there is a bound.
    vae.decoder[-2 if isinstance(vae, ConvVAE) else -3].bias.data -= 100
    assert (vae.decode_distribution(z)[1].exp().sqrt() >= 0.999 * SMALLEST_STD).all()


def test_a_learned_variance_adds_a_term_to_the_decoder_metric():
    vae = MLPVAE((1, 3, 3), hidden=(16, 12), latent=3, learned_variance=True).double().eval()
    z = torch.randn(2, 3, dtype=torch.float64)
    metric = pb.expected_metric(pb.as_map(vae.decode_distribution, returns="mean_logvar"), z)
    parts = [
        dense_jacobian(part, z)
        for part in (vae.decode, lambda z: (0.5 * vae.decode_distribution(z)[1]).exp())
    ]
    assert parts[1].abs().max() > 1e-3
    torch.testing.assert_close(metric.to_dense(), sum(J.mT @ J for J in parts))


def test_a_decoder_without_variance_says_so():
    vae = MLPVAE((1, 3, 3), hidden=(4,), latent=2).eval()
    with pytest.raises(ValueError, match="no variance: declare `decode` with returns='mean'"):
        vae.decode_distribution(torch.randn(1, 2))

"""Variational autoencoders of Khan & Storkey (2023), Appendix A."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pullback as pb

# The smallest standard deviation that a decoder can learn. Ten epochs on 20 000 images of MNIST
# (β = 1) give a mean squared error of 0.033 with 0.1, of 0.047 with 0.02 and of 0.060 with 1/255:
# with a smaller one, the dark borders outweigh the digits.
SMALLEST_STD = 0.1


class VAE(nn.Module):
    """What the two architectures share; they differ in ``features`` and ``decoder``.

    ``config`` has the arguments that make another of the same architecture.
    """

    config: dict[str, Any]
    event_shape: tuple[int, ...]
    features: nn.Module
    mean: nn.Module
    logvar: nn.Module
    decoder: nn.Module

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), ``(B, latent)`` each, for x ``(B, *event)``."""
        features = self.features(x)
        return self.mean(features), self.logvar(features)

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x | z), ``(B, *event)``, in [0, 1]."""
        return self.likelihood(z)[0]

    def decode_distribution(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x | z), ``(B, *event)`` each, if the variance is learned.

        ``pb.as_map(vae.decode_distribution, returns="mean_logvar")`` declares the decoder to
        pullback, whose metric G_z then has a second term (App. B).

        Raises:
            ValueError: the decoder has a mean only.
        """
        mean, logvar = self.likelihood(z)
        if logvar is None:
            raise ValueError(
                "this decoder has no variance: declare `decode` with returns='mean', or make the "
                "VAE with learned_variance=True"
            )
        return mean, logvar

    def likelihood(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean of p(x | z) and its log-variance, which is None unless it is learned."""
        decoded = self.decoder(z)
        return decoded if self.config["learned_variance"] else (decoded, None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from one sample of q(z | x), and the mean and log-variance of q."""
        mean, logvar = self.encode(x)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.decode(z), mean, logvar


class MLPVAE(VAE):
    """The fully connected VAE used for MNIST and FashionMNIST.

    The encoder has hidden layers of 256, 256, 512 and 32 units and two linear maps to the mean and
    the log-variance; the decoder has 32, 512, 256, 256 units, then the image, in [0, 1]. Batch
    normalisation comes before every activation, which is tanh.

    Args:
        event_shape: shape of an image; the decoder's output has it too.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        latent: dimension of the latent space.
        learned_variance: the decoder's output is twice as wide, for the log-variance of each pixel
            beside its mean; see :meth:`VAE.decode_distribution`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256, 512, 32),
        latent: int = 32,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.config = {
            "event_shape": list(event_shape),
            "hidden": list(hidden),
            "latent": latent,
            "learned_variance": learned_variance,
        }
        pixels = math.prod(event_shape)
        channels, *size = self.event_shape
        outputs = 2 if learned_variance else 1
        self.features = nn.Sequential(nn.Flatten(), *_dense(pixels, *hidden))
        self.mean = nn.Linear(hidden[-1], latent)
        self.logvar = nn.Linear(hidden[-1], latent)
        self.decoder = nn.Sequential(
            *_dense(latent, *reversed(hidden)),
            nn.Linear(hidden[0], outputs * pixels),
            nn.Unflatten(1, (outputs * channels, *size)),
            MeanAndLogVariance() if learned_variance else nn.Sigmoid(),
        )


class ConvVAE(VAE):
    """The convolutional VAE used for colour photographs of 64×64 pixels.

    The encoder has stride-2 convolutions with 32, 64, 128, 256 and 512 filters (kernel 4,
    padding 1), which take 64×64 pixels to 2×2, a dense layer of 128 units and two linear maps to
    the mean and the log-variance. (The paper's text says four convolutions and lists these five.)

    The decoder has a dense layer of 1 024 units, taken as 1 024 channels of 1×1, and transposed
    convolutions with 512, 256, 128, 64 and 32 filters: the first spreads the 1×1 over the 2×2 that
    the encoder ended with, and each other one doubles height and width. One more of them, to the
    image's channels, and a sigmoid make the image. Its maps are the encoder's in reverse.

    Batch normalisation comes before every activation, which is tanh.

    Args:
        event_shape: channels, height and width of an image; the decoder's output has them too.
        filters: of the encoder's convolutions; the decoder has them in reverse.
        units: widths of the encoder's and the decoder's dense layer.
        latent: dimension of the latent space.
        learned_variance: the last transposed convolution makes twice the channels, for the
            log-variance of each pixel beside its mean; see :meth:`VAE.decode_distribution`.

    Raises:
        ValueError: height or width is not a multiple of 2 to the number of convolutions.
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (3, 64, 64),
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        units: tuple[int, int] = (128, 1024),
        latent: int = 128,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        channels, *size = self.event_shape = tuple(event_shape)
        factor = 2 ** len(filters)
        if len(size) != 2 or any(side < factor or side % factor for side in size):
            raise ValueError(
                f"images of shape {self.event_shape} cannot be halved {len(filters)} times; "
                f"(channels, height, width) with multiples of {factor} is needed"
            )
        self.config = {
            "event_shape": list(event_shape),
            "filters": list(filters),
            "units": list(units),
            "latent": latent,
            "learned_variance": learned_variance,
        }
        outputs = (2 if learned_variance else 1) * channels
        smallest = (size[0] // factor, size[1] // factor)
        self.features = nn.Sequential(
            *_convolutions(nn.Conv2d, channels, *filters),
            nn.Flatten(),
            *_dense(filters[-1] * math.prod(smallest), units[0]),
        )
        self.mean = nn.Linear(units[0], latent)
        self.logvar = nn.Linear(units[0], latent)
        self.decoder = nn.Sequential(
            *_dense(latent, units[1]),
            nn.Unflatten(1, (units[1], 1, 1)),
            nn.ConvTranspose2d(units[1], filters[-1], smallest),
            nn.BatchNorm2d(filters[-1]),
            nn.Tanh(),
            *_convolutions(nn.ConvTranspose2d, *reversed(filters)),
            nn.ConvTranspose2d(filters[0], outputs, kernel_size=4, stride=2, padding=1),
            MeanAndLogVariance() if learned_variance else nn.Sigmoid(),
        )


class MeanAndLogVariance(nn.Module):
    """The end of a decoder with learned variance: half the channels for each, the mean in [0, 1].

    The variance is ``SMALLEST_STD`` squared plus a positive part: pixels that are the same in all
    images would otherwise let the density grow without bound.
    """

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, *size)`` each, from ``(B, 2C, *size)``."""
        mean, free = y.chunk(2, dim=1)
        floor = 2 * math.log(SMALLEST_STD)
        return mean.sigmoid(), floor + nn.functional.softplus(free - floor)


def mnist_encoder() -> pb.Map:
    """The encoder of an untrained VAE for 28×28 images: a factory for ``pullback score``.

    Weights of the whole VAE can be loaded into it.
    """
    return pb.as_map(MLPVAE((1, 28, 28)).eval().encode, returns="mean_logvar")


def mnist_decoder() -> pb.Map:
    """The decoder of such a VAE, likewise."""
    return pb.as_map(MLPVAE((1, 28, 28)).eval().decode, returns="mean")


def photo_encoder() -> pb.Map:
    """The encoder of an untrained VAE for 64×64 colour photographs, likewise."""
    return pb.as_map(ConvVAE().eval().encode, returns="mean_logvar")


def photo_decoder() -> pb.Map:
    """The decoder of such a VAE, likewise."""
    return pb.as_map(ConvVAE().eval().decode, returns="mean")


def _dense(*widths: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Tanh()]
    return layers


def _convolutions(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], *filters: int
) -> list[nn.Module]:
    """Each halves height and width, or doubles them if transposed."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(filters):
        convolution = kind(inputs, outputs, kernel_size=4, stride=2, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.Tanh()]
    return layers

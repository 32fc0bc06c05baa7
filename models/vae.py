"""Variational autoencoders of Khan & Storkey (2023), Appendix A, and their β-ELBO."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pullback as pb

LIKELIHOODS = ("gaussian", "bernoulli")


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
        return self.decoder(z)

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
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256, 512, 32),
        latent: int = 32,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.config = {"event_shape": list(event_shape), "hidden": list(hidden), "latent": latent}
        pixels = math.prod(event_shape)
        self.features = nn.Sequential(nn.Flatten(), *_dense(pixels, *hidden))
        self.mean = nn.Linear(hidden[-1], latent)
        self.logvar = nn.Linear(hidden[-1], latent)
        self.decoder = nn.Sequential(
            *_dense(latent, *reversed(hidden)),
            nn.Linear(hidden[0], pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, self.event_shape),
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

    Raises:
        ValueError: height or width is not a multiple of 2 to the number of convolutions.
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (3, 64, 64),
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        units: tuple[int, int] = (128, 1024),
        latent: int = 128,
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
        }
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
            nn.ConvTranspose2d(filters[0], channels, kernel_size=4, stride=2, padding=1),
            nn.Sigmoid(),
        )


def mnist_encoder() -> pb.Map:
    """The encoder of an untrained VAE for 28×28 images: a factory for ``pullback score``.

    Weights of the whole VAE can be loaded into it.
    """
    return pb.as_map(MLPVAE((1, 28, 28)).eval().encode, returns="mean_logvar")


def photo_encoder() -> pb.Map:
    """The same for 64×64 colour photographs."""
    return pb.as_map(ConvVAE().eval().encode, returns="mean_logvar")


def negative_elbo(
    x: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    logvar: Tensor,
    beta: float,
    likelihood: str = "gaussian",
) -> Tensor:
    """−E_q[log p(x | z)] + β KL(q(z | x) ‖ N(0, I)), averaged over the batch (Eq. 1).

    Args:
        x, reconstruction: ``(B, *event)``; in [0, 1] for the Bernoulli likelihood.
        mean, logvar: of q(z | x), ``(B, d)``.
        beta: weight of the divergence, > 0.
        likelihood: ``"gaussian"``: log p is minus the sum of squared errors of an image, up to
            constants (variance ½); ``"bernoulli"``: minus the binary cross-entropy, summed.
    """
    if likelihood == "gaussian":
        misfit = (x - reconstruction).square()
    elif likelihood == "bernoulli":
        misfit = nn.functional.binary_cross_entropy(reconstruction, x, reduction="none")
    else:
        raise ValueError(f"likelihood={likelihood!r} is not one of {', '.join(LIKELIHOODS)}")
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return (misfit.flatten(1).sum(1) + beta * divergence.sum(1)).mean()


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

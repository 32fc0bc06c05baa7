"""Variational autoencoders of Khan & Storkey (2023), Appendix A, and their β-ELBO."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import pullback as pb

LIKELIHOODS = ("gaussian", "bernoulli")


class MLPVAE(nn.Module):
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
        self.event_shape, self.hidden, self.latent = tuple(event_shape), tuple(hidden), latent
        pixels = math.prod(event_shape)
        self.features = nn.Sequential(nn.Flatten(), *_layers(pixels, *hidden))
        self.mean = nn.Linear(hidden[-1], latent)
        self.logvar = nn.Linear(hidden[-1], latent)
        self.decoder = nn.Sequential(
            *_layers(latent, *reversed(hidden)),
            nn.Linear(hidden[0], pixels),
            nn.Sigmoid(),
            nn.Unflatten(1, self.event_shape),
        )

    @property
    def config(self) -> dict:
        """The arguments that make another of this architecture."""
        return {
            "event_shape": list(self.event_shape),
            "hidden": list(self.hidden),
            "latent": self.latent,
        }

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


def mnist_encoder() -> pb.Map:
    """The encoder of an untrained VAE for 28×28 images: a factory for ``pullback score``.

    Weights of the whole VAE can be loaded into it.
    """
    return pb.as_map(MLPVAE((1, 28, 28)).eval().encode, returns="mean_logvar")


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


def _layers(*widths: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.Tanh()]
    return layers

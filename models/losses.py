"""Objectives of variational autoencoders: likelihoods, β-ELBO, β-TCVAE and latent mixup."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pullback.arguments import require_choice

LIKELIHOODS = ("gaussian", "bernoulli")
_LOG_2PI = math.log(2 * math.pi)


def negative_elbo(
    x: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    logvar: Tensor,
    beta: float,
    likelihood: str = "gaussian",
    decoder_logvar: Tensor | None = None,
) -> Tensor:
    """−E_q[log p(x | z)] + β KL(q(z | x) ‖ N(0, I)), averaged over the batch (Eq. 1).

    Args:
        x, reconstruction: ``(B, *event)``, the latter the mean of p(x | z) for one sample z.
        mean, logvar: of q(z | x), ``(B, d)``.
        beta: weight of the divergence, > 0.
        likelihood, decoder_logvar: see :func:`negative_log_likelihood`.
    """
    misfit = negative_log_likelihood(x, reconstruction, likelihood, decoder_logvar)
    return (misfit + beta * divergence(mean, logvar)).mean()


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, I)) of each code, ``(B,)``, for ``(B, d)`` each."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)


def negative_tcvae(
    x: Tensor,
    reconstruction: Tensor,
    z: Tensor,
    mean: Tensor,
    logvar: Tensor,
    beta: float,
    data_size: int,
    likelihood: str = "gaussian",
    decoder_logvar: Tensor | None = None,
) -> Tensor:
    """The β-TCVAE objective: the ELBO whose divergence is taken apart, β weighing one part of it.

    −E_q[log p(x | z)] + mutual information + β · total correlation + dimension-wise KL, averaged
    over the batch: Eq. 4 with α = γ = 1 in Chen et al., *Isolating sources of disentanglement in
    VAEs* (NeurIPS 2018).

    Args:
        x, reconstruction: ``(B, *event)``, the latter the mean of p(x | z).
        z: the samples of q(z | x) that were decoded, ``(B, d)``.
        mean, logvar: of q(z | x), ``(B, d)``.
        beta: weight of the total correlation, > 0.
        data_size: images in the whole data set.
        likelihood, decoder_logvar: see :func:`negative_log_likelihood`.
    """
    misfit = negative_log_likelihood(x, reconstruction, likelihood, decoder_logvar).mean()
    parts = decompose_divergence(z, mean, logvar, data_size)
    return misfit + parts.mutual_information + beta * parts.correlation + parts.dimension_wise


def negative_log_likelihood(
    x: Tensor,
    reconstruction: Tensor,
    likelihood: str = "gaussian",
    decoder_logvar: Tensor | None = None,
) -> Tensor:
    """−log p(x | z) of each image, ``(B,)``, in nats.

    Args:
        x, reconstruction: ``(B, *event)``; in [0, 1] for the Bernoulli likelihood.
        likelihood: ``"gaussian"``: the sum of squared errors, which is −log p for variance ½ up to
            a constant, or the Gaussian −log p if there is a log-variance; ``"bernoulli"``: the
            binary cross-entropy, summed.
        decoder_logvar: log-variance of p(x | z), ``(B, *event)``, of a decoder that has one.

    Raises:
        ValueError: the likelihood is unknown, or Bernoulli with a variance.
    """
    check_likelihood(likelihood, decoder_logvar is not None)
    if likelihood == "bernoulli":
        misfit = nn.functional.binary_cross_entropy(reconstruction, x, reduction="none")
    else:
        misfit = (x - reconstruction).square()
    if decoder_logvar is not None:
        misfit = 0.5 * (misfit * (-decoder_logvar).exp() + decoder_logvar + _LOG_2PI)
    return misfit.flatten(1).sum(1)


def check_likelihood(likelihood: str, has_variance: bool) -> None:
    """Refuse an unknown likelihood, and a variance that the likelihood has no place for.

    Raises:
        ValueError: as said.
    """
    require_choice("likelihood", likelihood, LIKELIHOODS)
    if has_variance and likelihood != "gaussian":
        raise ValueError(
            f"likelihood={likelihood!r} has no variance to learn; a decoder with a learned "
            "variance needs 'gaussian'"
        )


class Divergence(NamedTuple):
    """Three parts of E_q[log q(z | x) − log p(z)], scalars in nats, averaged over the batch.

    Attributes:
        mutual_information: between image and code, E[log q(z | x) − log q(z)].
        correlation: total correlation, E[log q(z) − Σ_k log q(z_k)].
        dimension_wise: E[Σ_k log q(z_k) − log p(z_k)].
    """

    mutual_information: Tensor
    correlation: Tensor
    dimension_wise: Tensor


def decompose_divergence(z: Tensor, mean: Tensor, logvar: Tensor, data_size: int) -> Divergence:
    """The divergence's parts by minibatch-weighted sampling (Chen et al. 2018, App. C.1).

    q(z) is estimated by 1/(NB) Σ_j q(z | x_j) over a batch of B out of N images, and likewise each
    q(z_k). The sum of the parts does not depend on these estimates.

    Args:
        z: a sample of q(z | x) for each image of the batch, ``(B, d)``.
        mean, logvar: of q(z | x), ``(B, d)``.
        data_size: N.
    """
    # Entry (i, j, k): the log-density of z_i in dimension k under the code of image j.
    densities = _log_normal(z[:, None], mean, logvar)
    given_image = _log_normal(z, mean, logvar).sum(1)
    scale = math.log(data_size * len(z))
    joint = densities.sum(2).logsumexp(1) - scale
    independent = (densities.logsumexp(1) - scale).sum(1)
    prior = _log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    return Divergence(
        (given_image - joint).mean(), (joint - independent).mean(), (independent - prior).mean()
    )


class Pairs(NamedTuple):
    """Each image of a batch with another of the same batch, to be mixed.

    Attributes:
        weight: α of Eq. 9, ``(B,)`` in [0, 1].
        partner: index of the other image, ``(B,)``.
    """

    weight: Tensor
    partner: Tensor

    def mix(self, x: Tensor) -> Tensor:
        """α x_i + (1 − α) x_j, ``(B, *event)`` (Eq. 9)."""
        weight = self.weight.to(x).view(-1, *(1,) * (x.ndim - 1))
        return weight * x + (1 - weight) * x[self.partner.to(x.device)]


def draw_pairs(count: int, generator: torch.Generator, *, one_weight: bool = False) -> Pairs:
    """Pairs of distinct images, and α ~ Beta(½, ½) for each or for all of them (Sec. 4.2.2).

    The partners follow each other in one random cycle through the batch, so that each image has
    each other one with the same probability, and itself never.
    """
    # Beta(½, ½) is the arcsine law, whose distribution function is 2/π arcsin √α.
    uniform = torch.rand(1 if one_weight else count, generator=generator)
    weight = (0.5 * math.pi * uniform).sin().square().expand(count)
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return Pairs(weight, partner)


def mixup_penalty(
    mixed_z: Tensor,
    encoded: Tensor,
    mixed_x: Tensor,
    reconstruction: Tensor,
    *,
    squared: bool = False,
) -> Tensor:
    """‖z_m − f(x_m)‖₂ + ‖g(z_m) − x_m‖₂, averaged over the batch (Eq. 10).

    Args:
        mixed_z: z_m, the mixed codes, ``(B, d)``.
        encoded: f(x_m), a sample of the encoder (Sec. 3.1) at the mixed images, ``(B, d)``.
        mixed_x: x_m, the mixed images, ``(B, *event)``.
        reconstruction: g(z_m), the decoder's mean at the mixed codes, ``(B, *event)``.
        squared: take the squares of both norms.
    """
    latent, visible = mixed_z - encoded, (reconstruction - mixed_x).flatten(1)
    if squared:
        return (latent.square().sum(1) + visible.square().sum(1)).mean()
    norm = torch.linalg.vector_norm
    return (norm(latent, dim=1) + norm(visible, dim=1)).mean()


def sample(mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    """μ + ε ⊙ σ with ε ~ N(0, I) (Sec. 3.1); ε is the same on every device."""
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    return mean + noise.to(mean.device) * (0.5 * logvar).exp()


def _log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * ((z - mean).square() * (-logvar).exp() + logvar + _LOG_2PI)

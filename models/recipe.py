"""What decides a training: the objective and how it is minimised."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pullback.arguments import require_choice

from . import losses
from .vae import VAE

LEARNING_RATE = 0.003
OBJECTIVES = ("elbo", "tcvae")
SCHEDULES = ("constant", "cosine")
# As the paper's text has the penalty, or as its authors' public code has it.
MIXUP_FORMS = ("text", "code")
_FORM = "mixup_form"


@dataclass(frozen=True)
class Recipe:
    """The settings that decide what a training gives; :func:`models.training.train` explains them.

    Raises:
        ValueError: one of them is out of range.
    """

    beta: float = 1.0
    epochs: int = 10
    batch_size: int = 128
    likelihood: str = "gaussian"
    objective: str = "elbo"
    mixup: float = 0.0
    mixup_form: str = "text"
    schedule: str = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive, got {self.beta}; it has to be finite, too")
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"the weight of mixup must be 0 or more, and finite, got {self.mixup}")
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(
                "at least 1 epoch and 2 images per step are needed, "
                f"got {self.epochs} and {self.batch_size}"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed must lie between 0 and 2**63 - 1, got {self.seed}")
        losses.check_likelihood(self.likelihood, has_variance=False)
        require_choice("objective", self.objective, OBJECTIVES)
        require_choice("mixup_form", self.mixup_form, MIXUP_FORMS)
        require_choice("schedule", self.schedule, SCHEDULES)

    @property
    def facts(self) -> dict[str, Any]:
        """The settings, without those that mean nothing beside the others."""
        return {key: value for key, value in asdict(self).items() if self.mixup or key != _FORM}

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch, the first being 0."""
        if self.schedule == "constant":
            return LEARNING_RATE
        return 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * epoch / self.epochs))

    def loss(self, vae: VAE, x: Tensor, data_size: int, generator: torch.Generator) -> Tensor:
        """The objective on a batch ``(B, *event)`` out of ``data_size`` images, a scalar."""
        n = len(x)
        mixing = self._draw_mixing(n, generator) if self.mixup else None
        # Mixtures pass in one batch with their images: batch normalisation then learns running
        # statistics of just what it normalises by.
        x_all = x if mixing is None else torch.cat([x, mixing[0].mix(x)])
        mean, logvar = vae.encode(x_all)
        z = losses.sample(mean, logvar, generator)
        z_all = z if mixing is None else torch.cat([z[:n], mixing[1].mix(z[:n])])
        output, spread = vae.likelihood(z_all)

        images = (x, output[:n])
        code = (mean[:n], logvar[:n])
        likelihood = (self.likelihood, None if spread is None else spread[:n])
        if self.objective == "tcvae":
            value = losses.negative_tcvae(*images, z[:n], *code, self.beta, data_size, *likelihood)
        else:
            value = losses.negative_elbo(*images, *code, self.beta, *likelihood)
        if mixing is None:
            return value
        mixed = (z_all[n:], z[n:], x_all[n:], output[n:])
        return value + self.mixup * self._penalty(*mixed, mean[n:], logvar[n:])

    def _draw_mixing(
        self, count: int, generator: torch.Generator
    ) -> tuple[losses.Pairs, losses.Pairs]:
        """Pairs of images, and pairs of codes: the same ones, but for the authors' code."""
        pairs = losses.draw_pairs(count, generator, one_weight=self.mixup_form == "code")
        if self.mixup_form == "text":
            return pairs, pairs
        return pairs, losses.draw_pairs(count, generator, one_weight=True)

    def _penalty(
        self,
        mixed_z: Tensor,
        encoded: Tensor,
        mixed_x: Tensor,
        reconstruction: Tensor,
        mean: Tensor,
        logvar: Tensor,
    ) -> Tensor:
        """Eq. 10; in the authors' code, squares, and the divergence of the mixed images."""
        squared = self.mixup_form == "code"
        value = losses.mixup_penalty(mixed_z, encoded, mixed_x, reconstruction, squared=squared)
        return value + losses.divergence(mean, logvar).mean() if squared else value

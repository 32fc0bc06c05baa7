"""The VAEs that the figures are of: trained when they are first needed, then kept."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pullback as pb
from models import training
from models.vae import VAE
from pullback.arguments import require_integer, usable_device

from ..digits import EPOCHS
from ..train import architecture, open_images, widths

_OTHER_EPOCHS = 10


class Subject(NamedTuple):
    """Which VAE of a study it is.

    Attributes:
        beta: weight of the divergence.
        mixup: weight of the mixup penalty; 0 for none.
        form: of that penalty, see :func:`models.training.train`.
        seed: of the training; None is the study's own.
    """

    beta: float
    mixup: float = 0.0
    form: str = "text"
    seed: int | None = None

    @property
    def name(self) -> str:
        """What its files are called; β is told apart by six digits."""
        penalty = f"-mixup-{self.mixup:.6g}" if self.mixup else ""
        form = f"-{self.form}" if self.form != "text" else ""
        seed = f"-seed-{self.seed}" if self.seed is not None else ""
        return f"beta-{self.beta:.6g}{penalty}{form}{seed}"

    def listed(self) -> list[Any]:
        """The same as JSON, without what is as usual."""
        form = [self.form] if self.form != "text" else []
        return [self.beta, self.mixup, *form, *([] if self.seed is None else [self.seed])]


def unusual(configuration: Mapping[str, Any]) -> str:
    """What a caption has to add to the epochs, if VAEs were not trained as the paper's are."""
    objective, learned = (configuration.get(key) for key in ("objective", "learned_variance"))
    return f", objective {objective}" * bool(objective) + ", variance learned" * bool(learned)


class Vaes:
    """VAEs of one data set, and images of it that they were not trained with.

    Neither images nor checkpoints are opened before they are asked for, so that what an archive
    already holds can be drawn without them.

    Args:
        out: folder for the checkpoints, OUT/models/beta-….safetensors.
        dataset: digits, photos, mnist, fashion-mnist or celeba.
        data: folder with the IDX files of mnist or fashion-mnist, or with img_align_celeba and
            list_eval_partition.txt of celeba; the variable PULLBACK_DATA if absent.
        epochs: passes over the training images; 200 for digits and 10 for others if absent.
        objective: elbo or tcvae.
        learned_variance: the decoder learns a variance for each pixel.
        seed: of training, Krylov starts and probes.
        device: cpu, or cuda.
        skip_bad: leave out images of celeba that are absent or cannot be read.
    """

    def __init__(
        self,
        out: str,
        dataset: str = "digits",
        data: str | None = None,
        epochs: int | None = None,
        objective: str = "elbo",
        learned_variance: bool = False,
        seed: int = 0,
        device: str = "cpu",
        skip_bad: bool = False,
    ) -> None:
        if Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"{out} is a file; name a folder")
        self.out, self.dataset, self.data = Path(out), dataset, data
        usual = EPOCHS if dataset == "digits" else _OTHER_EPOCHS
        self.epochs = usual if epochs is None else epochs
        self.objective, self.learned_variance = objective, learned_variance
        self.seed, self.device, self.skip_bad = seed, usable_device(device), skip_bad

    @property
    def configuration(self) -> dict[str, Any]:
        """What the numbers measured on these VAEs depend on."""
        found = {"dataset": self.dataset, "epochs": self.epochs, "seed": self.seed}
        # Said only where it is not the paper's, so that archives made before there was a choice
        # are still those of the same settings.
        if self.objective != "elbo":
            found["objective"] = self.objective
        if self.learned_variance:
            found["learned_variance"] = True
        return found

    @cached_property
    def _opened(self) -> tuple[training.Images, training.Images]:
        return open_images(self.dataset, self.data, skip_bad=self.skip_bad)

    def held_out(self, count: int) -> Tensor:
        """The first images that no VAE was trained with, ``(count, *event)``, or all if fewer."""
        test = self._opened[1]
        return test[torch.arange(min(count, len(test)))].to(self.device)

    def get(self, subject: Subject) -> VAE:
        """A VAE in eval mode, without gradients."""
        images = self._opened[0]
        vae = training.train(
            images,
            architecture(images),
            beta=subject.beta,
            mixup=subject.mixup,
            mixup_form=subject.form,
            epochs=self.epochs,
            objective=self.objective,
            learned_variance=self.learned_variance,
            seed=self.seed if subject.seed is None else subject.seed,
            device=str(self.device),
            checkpoint=self.out / "models" / f"{subject.name}.safetensors",
            facts={"dataset": self.dataset},
            **widths(self.dataset),
        )
        return vae.requires_grad_(False)

    def repeated(self, subjects: Sequence[Subject], seeds: int) -> list[Subject]:
        """Each VAE as often as there are seeds: the study's own, and those that follow it.

        One that is named twice is one VAE all the same, and no other training.

        Raises:
            ValueError: there is not even one seed.
        """
        require_integer("seeds", seeds, 1)
        others = range(self.seed + 1, self.seed + seeds)
        different = list({subject.name: subject for subject in subjects}.values())
        return [
            *different,
            *(subject._replace(seed=seed) for seed in others for subject in different),
        ]


def encoder_of(vae: VAE) -> pb.Map:
    """The encoder, declared to pullback."""
    return pb.as_map(vae.encode, returns="mean_logvar")


def decoder_of(vae: VAE) -> pb.Map:
    """The decoder, declared to pullback; a learned variance takes part in its metric (App. B)."""
    if vae.config["learned_variance"]:
        return pb.as_map(vae.decode_distribution, returns="mean_logvar")
    return pb.as_map(vae.decode, returns="mean")

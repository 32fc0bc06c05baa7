"""The VAEs that the figures are of: trained when they are first needed, then kept."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import training
from models.vae import VAE
from pullback.arguments import usable_device

from ..digits import EPOCHS, HIDDEN, LATENT
from ..train import architecture, open_images

_DIGITS: dict[str, Any] = {"hidden": HIDDEN, "latent": LATENT}
_OTHER_EPOCHS = 10


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
        seed: int = 0,
        device: str = "cpu",
        skip_bad: bool = False,
    ) -> None:
        if Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"{out} is a file; name a folder")
        self.out, self.dataset, self.data = Path(out), dataset, data
        usual = EPOCHS if dataset == "digits" else _OTHER_EPOCHS
        self.epochs = usual if epochs is None else epochs
        self.seed, self.device, self.skip_bad = seed, usable_device(device), skip_bad

    @property
    def configuration(self) -> dict[str, Any]:
        """What the numbers measured on these VAEs depend on."""
        return {"dataset": self.dataset, "epochs": self.epochs, "seed": self.seed}

    @cached_property
    def _opened(self) -> tuple[training.Images, training.Images]:
        return open_images(self.dataset, self.data, skip_bad=self.skip_bad)

    def held_out(self, count: int) -> Tensor:
        """The first images that no VAE was trained with, ``(count, *event)``, or all if fewer."""
        test = self._opened[1]
        return test[torch.arange(min(count, len(test)))].to(self.device)

    def get(self, beta: float, mixup: float = 0.0) -> VAE:
        """The VAE for a β and a weight of the mixup penalty, in eval mode, without gradients."""
        images = self._opened[0]
        vae = training.train(
            images,
            architecture(images),
            beta=beta,
            mixup=mixup,
            epochs=self.epochs,
            seed=self.seed,
            device=str(self.device),
            checkpoint=self.out / "models" / f"{name(beta, mixup)}.safetensors",
            facts={"dataset": self.dataset},
            **(_DIGITS if self.dataset == "digits" else {}),
        )
        return vae.requires_grad_(False)


def name(beta: float, mixup: float = 0.0) -> str:
    """What a VAE's files are called, as ``sweep`` calls them; β is told apart by six digits."""
    return f"beta-{beta:.6g}" + (f"-mixup-{mixup:.6g}" if mixup else "")

"""Training of variational autoencoders: the same result whether or not it was interrupted."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pullback.arguments import usable_device

from . import checkpoints
from .checkpoints import load as load
from .checkpoints import save as save
from .losses import check_likelihood
from .recipe import LEARNING_RATE, Recipe
from .vae import MLPVAE, VAE


class Images(Protocol):
    """What training needs of a data set; a tensor has it.

    A selection may have fewer images than indices, where some cannot be read.
    """

    @property
    def shape(self) -> torch.Size:
        """``(n, *event)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """``(B, *event)`` in [0, 1], for B indices."""


def train(
    images: Images,
    architecture: type[VAE] = MLPVAE,
    *,
    beta: float = 1.0,
    epochs: int = 10,
    batch_size: int = 128,
    likelihood: str = "gaussian",
    objective: str = "elbo",
    mixup: float = 0.0,
    mixup_form: str = "text",
    schedule: str = "constant",
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    facts: dict[str, str | float] | None = None,
    **widths: Any,
) -> VAE:
    """A new VAE, trained with Adam at a learning rate of 0.003 (App. A), in eval mode.

    The same seed gives the same weights on the same machine; the global generator is left alone.

    Args:
        images: ``(n, *event)`` float32 in [0, 1], n ≥ 2: a tensor, or a data set that reads
            them when they are asked for.
        architecture: ``MLPVAE`` or ``ConvVAE`` of :mod:`models.vae`.
        beta: weight of the Kullback–Leibler divergence (of the total correlation, for
            ``"tcvae"``), > 0.
        epochs: passes over the images, ≥ 1.
        batch_size: images per step, ≥ 2 (batch normalisation needs two).
        likelihood: ``"gaussian"`` or ``"bernoulli"``; a decoder with ``learned_variance`` needs the
            former. See :func:`models.losses.negative_log_likelihood`.
        objective: ``"elbo"`` (Eq. 1) or ``"tcvae"``, see :func:`models.losses.negative_tcvae`.
        mixup: weight of the latent mixup penalty (Eq. 10), ≥ 0; 0 leaves it out.
        mixup_form: ``"text"``, as the paper's text has it: norms, and the codes mixed as their
            images are; or ``"code"``, as the authors' public code has it: squares of the norms,
            the divergence of the mixed images added, one α for a batch, and the codes mixed with
            an α and in pairs of their own.
        schedule: of the learning rate: ``"constant"``, as the paper has it, or ``"cosine"``, which
            brings it down to zero, epoch by epoch, as the authors' public code does.
        seed: of the initial weights, the order of the images and the latent noise.
        device: any that PyTorch knows; where the VAE ends up too.
        checkpoint: file for the finished VAE. Until that is there, the state after each epoch is
            kept beside it, in ``CHECKPOINT.partial``: the same call goes on from it, and ends with
            the very weights of an uninterrupted training. A finished checkpoint is loaded.
        facts: what else the checkpoint shall say of the training.
        widths: further arguments of the architecture.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: checkpoint or partial file are of another training; says what differs.
        FloatingPointError: the loss became NaN or infinite; says when, and where the last good
            weights are.
    """
    recipe = Recipe(
        beta, epochs, batch_size, likelihood, objective, mixup, mixup_form, schedule, seed
    )
    if len(images) < 2:
        raise ValueError(f"at least 2 images are needed, got {len(images)}")
    if isinstance(images, Tensor) and images.dtype != torch.float32:
        raise ValueError(f"images must be float32 numbers in [0, 1], got {images.dtype}")
    run = _Run(images, recipe, usable_device(device), architecture, widths)
    if checkpoint is None:
        for _ in run.epochs():
            pass
        return run.vae.eval()

    facts = {**recipe.facts, "images": _digest(images), **(facts or {})}
    configuration = checkpoints.describe(run.vae, **facts)
    partial = checkpoints.find_partial(checkpoint, configuration)
    vae = checkpoints.find_finished(checkpoint, configuration)
    if vae is None:
        if partial is not None:
            run.restore(partial)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        _train_resumably(run, checkpoint, configuration)
        vae = run.vae
        checkpoints.save(vae, checkpoint, **facts)
    checkpoints.partial_path(checkpoint).unlink(missing_ok=True)
    return vae.to(device).eval()


def _train_resumably(run: "_Run", checkpoint: Path, configuration: dict[str, Any]) -> None:
    try:
        for _ in run.epochs():
            checkpoints.save_partial(checkpoint, configuration, run.state())
    except FloatingPointError as error:
        kept = checkpoints.partial_path(checkpoint)
        where = f"the last good weights are in {kept}" if kept.exists() else "no epoch was finished"
        raise FloatingPointError(f"{error}; {where}") from error


class _Run:
    """A training under way: everything that changes in it."""

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        device: torch.device,
        architecture: type[VAE],
        widths: dict[str, Any],
    ) -> None:
        self.images, self.recipe, self.device, self.epoch = images, recipe, device, 0
        self.generator = torch.Generator()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.vae = architecture(images.shape[1:], **widths).to(device)
            self.generator.set_state(torch.get_rng_state())
        check_likelihood(recipe.likelihood, self.vae.config["learned_variance"])
        self.optimizer = torch.optim.Adam(self.vae.parameters(), lr=LEARNING_RATE)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs; the learning rate follows from the epoch."""
        return {
            "epoch": self.epoch,
            "weights": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier :meth:`state`."""
        self.epoch = state["epoch"]
        self.vae.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])

    def epochs(self) -> Iterator[None]:
        """Train to the end; yields between epochs, not after the last."""
        total, text = self.recipe.epochs, f"training, β = {self.recipe.beta:g}"
        with tqdm(total=total, initial=self.epoch, unit="epoch", desc=text) as progress:
            while self.epoch < total:
                loss = self._pass()
                self.epoch += 1
                progress.set_postfix(loss=f"{loss:.3f}")
                progress.update()
                if self.epoch < total:
                    yield

    def _pass(self) -> float:
        """One pass in random order; the mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.epoch)
        losses = []
        order = torch.randperm(len(self.images), generator=self.generator)
        for step, index in enumerate(order.split(self.recipe.batch_size)):
            if len(index) < 2:
                continue  # batch normalisation has no variance of one image
            x = self.images[index].to(self.device)
            if len(x) < 2:
                continue
            loss = self.recipe.loss(self.vae, x, len(self.images), self.generator)
            if not loss.isfinite():
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step + 1} of epoch {self.epoch + 1}"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        if not losses:
            raise ValueError("no step of an epoch had two images that can be read")
        return torch.stack(losses).mean().item()


def _digest(images: Images) -> str:
    """Shape and SHA-256 of the images, or of what a data set on disk says of itself."""
    sha = hashlib.sha256()
    if isinstance(images, Tensor):
        sha.update(images.detach().cpu().contiguous().numpy().data)
    else:
        sha.update(repr(images).encode())
    return f"{tuple(images.shape)} {sha.hexdigest()}"

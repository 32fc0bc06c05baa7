"""Theorem 3.2 put to the test: the step along the top eigenvector beside other attacks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb
from models import datasets, training
from models.vae import MLPVAE, VAE, ConvVAE
from pullback.attacks import EigenAttack, GradientAttack, PGDAttack, RandomAttack

from . import displacements, named_arrays
from .digits import EPOCHS, HIDDEN, LATENT
from .displacements import Displacements
from .optimality_report import draw, table

CLIPPING = {"unclipped": None, "clipped": (0.0, 1.0)}
# How a VAE is trained where no checkpoint is given: on digits as in the study of that name.
DIGITS = {"epochs": EPOCHS, "beta": 0.5, "hidden": list(HIDDEN), "latent": LATENT}
OTHERS = {"epochs": 2}


@dataclass(frozen=True)
class Effort:
    """Which norms are tried; steps of PGD and of gradient ascent, restarts of PGD."""

    eps: tuple[float, ...] = tuple(np.geomspace(0.01, 10, 10).round(4).tolist())
    steps: int = 50
    restarts: int = 5


QUICK = Effort(eps=(0.01, 0.1, 1.0, 10.0), steps=10, restarts=2)
QUICK_IMAGES = 20


def optimality(
    out: str,
    dataset: str = "digits",
    data: str | None = None,
    checkpoint: str | None = None,
    images: int = 100,
    seed: int = 0,
    quick: bool = False,
    redraw: bool = False,
) -> None:
    """Compare the step along the top eigenvector with random, gradient and PGD attacks.

    The same command again draws the figure and prints the table without computing anything.

    Args:
        out: folder for optimality.h5 and optimality.png.
        dataset: digits, photos, mnist or fashion-mnist.
        data: folder with the IDX files of mnist or fashion-mnist; the variable PULLBACK_DATA if
            absent.
        checkpoint: take the VAE of this file, from ``train``, and do not train one briefly.
        images: how many held-out images are attacked.
        seed: of training, of the choice of images and of the attacks.
        quick: fewer norms, images, steps and restarts.
        redraw: draw and print what the folder holds, whatever it was measured with.
    """
    folder = Path(out)
    path = folder / "optimality.h5"
    if not redraw:
        count, effort = (min(images, QUICK_IMAGES), QUICK) if quick else (images, Effort())
        configuration = _configuration(dataset, checkpoint, count, seed, effort)
        if not named_arrays.holds(path, displacements.LAYOUT, configuration):
            split = datasets.load(dataset, data)
            chosen = _choose(len(split.test), count, seed)
            folder.mkdir(parents=True, exist_ok=True)
            vae = _vae(split.train, dataset, checkpoint, seed)
            encoder = pb.as_map(vae.requires_grad_(False).encode, returns="mean_logvar")
            found = measure(encoder, split.test[chosen], chosen, effort, seed)
            displacements.write(path, found, configuration)
    found, configuration = displacements.read(path)
    print(table(found, configuration))
    print(f"\nfigure     {draw(found, configuration, folder / 'optimality.png')}")


def _configuration(
    dataset: str, checkpoint: str | None, images: int, seed: int, effort: Effort
) -> dict[str, Any]:
    """All that the numbers depend on, as JSON has it."""
    digest = checkpoint and hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    return {
        "dataset": dataset,
        "checkpoint": digest,
        "training": None if checkpoint else _training(dataset),
        "images": images,
        "seed": seed,
        "eps": list(effort.eps),
        "steps": effort.steps,
        "restarts": effort.restarts,
    }


def _choose(available: int, count: int, seed: int) -> Tensor:
    if not 1 <= count <= available:
        raise ValueError(f"images={count} must be from 1 to {available}, as many as are held out")
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:count]


def _training(dataset: str) -> dict[str, Any]:
    return DIGITS if dataset == "digits" else OTHERS


def _vae(images: Tensor, dataset: str, checkpoint: str | None, seed: int) -> VAE:
    if checkpoint is not None:
        vae = training.load(Path(checkpoint))
        if vae.event_shape != images.shape[1:]:
            raise ValueError(
                f"the checkpoint is for images of shape {vae.event_shape}; those of {dataset} "
                f"have shape {tuple(images.shape[1:])}"
            )
        return vae
    kind = ConvVAE if dataset == "photos" else MLPVAE
    return training.train(images, kind, seed=seed, **_training(dataset))


def measure(encoder: pb.Map, x: Tensor, chosen: Tensor, effort: Effort, seed: int) -> Displacements:
    """Every attack at every norm, unclipped and clipped, on images ``(n, *event)`` as one batch.

    Each attack is run as a user would run it. So eigenvectors are found anew for each norm, which
    costs little beside PGD; every run's count of passes is its own, and no attack has a head start.
    """
    runs: list[tuple[NDArray, int]] = []
    names: Sequence[str] = ()
    settings = [(clip, eps) for clip in CLIPPING.values() for eps in effort.eps]
    for clip, eps in tqdm(settings, desc="attacks", unit="norm"):
        made = attacks(encoder, eps, clip, effort)
        names = tuple(made)
        for attack in made.values():
            moved = attack(x, generator=torch.Generator().manual_seed(seed))
            runs.append((moved.latent_distance.double().numpy(), moved.n_products))
    shape = (len(CLIPPING), len(effort.eps), len(names))
    distances, products = (np.array(column) for column in zip(*runs, strict=True))
    return Displacements(
        clipping=tuple(CLIPPING),
        attack=tuple(names),
        eps=np.array(effort.eps),
        sample=chosen.numpy(),
        displacement=distances.reshape(*shape, -1).swapaxes(1, 2),
        eigenvalue=pb.score(encoder, x, k=1).spectral_radius.double().numpy(),
        n_products=products.reshape(shape).swapaxes(1, 2),
    )


def attacks(
    encoder: pb.Map, eps: float, clip: tuple[float, float] | None, effort: Effort
) -> dict[str, Any]:
    """Attacks by name, all with the same budget eps."""
    common: dict[str, Any] = {"eps": eps, "clip": clip}
    return {
        "eigenvector": EigenAttack(encoder, **common),
        "PGD": PGDAttack(encoder, **common, steps=effort.steps, restarts=effort.restarts),
        "PGD from eigenvector": PGDAttack(
            encoder, **common, steps=effort.steps, restarts=1, start="eigenvector"
        ),
        "gradient": GradientAttack(encoder, **common, steps=effort.steps),
        "random": RandomAttack(encoder, **common),
    }

"""Theorem 3.2 put to the test: the step along the top eigenvector beside other attacks."""

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
from pullback.arguments import require_integer
from pullback.attacks import EigenAttack, GradientAttack, PGDAttack, RandomAttack

from .. import named_arrays
from . import displacements
from .displacements import Displacements
from .optimality_report import draw, table
from .vaes import Subject, Vaes, encoder_of

CLIPPING = {"unclipped": None, "clipped": (0.0, 1.0)}


@dataclass(frozen=True)
class Effort:
    """Which norms are tried; steps of PGD and of gradient ascent, restarts of PGD."""

    eps: tuple[float, ...] = tuple(np.geomspace(0.01, 10, 10).round(4).tolist())
    steps: int = 50
    restarts: int = 5

    @property
    def configuration(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {"eps": list(self.eps), "steps": self.steps, "restarts": self.restarts}


QUICK = Effort(eps=(0.01, 0.1, 1.0, 10.0), steps=10, restarts=2)
QUICK_IMAGES = 20


def optimality(
    out: str,
    beta: float = 0.5,
    images: int = 100,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Compare the step along the top eigenvector with random, gradient and PGD attacks.

    The same command again draws the figure and prints the table without computing anything.

    Args:
        out: folder for optimality.h5, optimality.png and the checkpoint.
        beta: weight of the Kullback-Leibler divergence.
        images: how many held-out images are attacked, the first ones; all, if there are fewer.
        quick: fewer norms, images, steps and restarts.
        redraw: draw and print what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    require_integer("images", images, 1)
    path, vaes = Path(out, "optimality.h5"), Vaes(out, **options)
    count, effort = (min(images, QUICK_IMAGES), QUICK) if quick else (images, Effort())
    configuration = {**vaes.configuration, "beta": beta, "images": count, **effort.configuration}
    if not redraw and not named_arrays.holds(path, configuration):
        encoder = encoder_of(vaes.get(Subject(beta)))
        found = measure(encoder, vaes.held_out(count), effort, vaes.seed)
        displacements.write(path, found, configuration)
    found, configuration = displacements.read(path)
    print(table(found, configuration))
    print(f"\nfigure     {draw(found, configuration, path.with_suffix('.png'))}")


def measure(encoder: pb.Map, x: Tensor, effort: Effort, seed: int) -> Displacements:
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
            moved = attack(x, generator=torch.Generator(x.device).manual_seed(seed))
            runs.append((moved.latent_distance.double().cpu().numpy(), moved.n_products))
    shape = (len(CLIPPING), len(effort.eps), len(names))
    distances, products = (np.array(column) for column in zip(*runs, strict=True))
    return Displacements(
        clipping=tuple(CLIPPING),
        attack=tuple(names),
        eps=np.array(effort.eps),
        sample=np.arange(len(x)),
        displacement=distances.reshape(*shape, -1).swapaxes(1, 2),
        eigenvalue=pb.score(encoder, x, k=1).spectral_radius.double().cpu().numpy(),
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

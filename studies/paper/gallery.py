"""Figures 2 and 4, and 8 and 9: images, corruptions along the top eigenvector, reconstructions."""

from pathlib import Path
from typing import Any

import torch

import pullback as pb
from models.vae import VAE
from pullback.arguments import require_integer
from pullback.attacks import EigenAttack

from .. import named_arrays, pictures
from ..pictures import DELTAS, Pictures, attacked
from .vaes import Vaes, name

QUICK_SHOWN = 4


def gallery(
    out: str,
    beta: float = 1.0,
    mixup: float = 0.0,
    combined: bool = False,
    shown: int = 10,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """Figures 2 and 4: images corrupted along the top eigenvector, and their reconstructions.

    The same command again draws the figure without computing anything.

    Args:
        out: folder for gallery-….h5, gallery-….png and the checkpoint.
        beta: weight of the Kullback-Leibler divergence.
        mixup: weight of the mixup penalty.
        combined: take the metric of Eq. 11, as in Figures 8 and 9, for that of Eq. 4.
        shown: how many held-out images.
        quick: at most four of them.
        redraw: draw what the folder holds, whatever it was made with.
        options: see :class:`Vaes`.
    """
    require_integer("shown", shown, 1)
    shown = min(shown, QUICK_SHOWN) if quick else shown
    vaes = Vaes(out, **options)
    stem = f"gallery{'-combined' * combined}-{name(beta, mixup)}"
    path = Path(out, f"{stem}.h5")
    facts = {"beta": beta, "mixup": mixup, "combined": combined, "shown": shown}
    configuration = {**vaes.configuration, **facts}
    if not redraw and not named_arrays.holds(path, configuration):
        made = make(vaes.get(beta, mixup), vaes.held_out(shown), combined=combined, seed=vaes.seed)
        pictures.write(path, made, configuration)
    metric = "Eq. 11" if combined else "Eq. 4"
    title = f"x + δλη, η the top eigenvector of {metric}, clipped to [0, 1]; β = {beta:g}"
    print(f"figure     {pictures.read(path).save(path.with_suffix('.png'), title)}")


def make(vae: VAE, x: torch.Tensor, *, combined: bool = False, seed: int = 0) -> Pictures:
    """Originals, the paper's two corruptions of each, and what the VAE makes of all three."""
    encoder = pb.as_map(vae.encode, returns="mean_logvar")
    decoder = pb.as_map(vae.decode, returns="mean") if combined else None
    attacks = []
    for delta in DELTAS:
        attack = EigenAttack(encoder, delta=delta, decoder=decoder, clip=(0, 1))
        moved = attack(x, generator=torch.Generator(x.device).manual_seed(seed))
        attacks.append((moved.step, moved.x))
    return attacked(vae, x, attacks)

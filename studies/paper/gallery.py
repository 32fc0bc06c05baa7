"""Figures 2 and 4, and 8 and 9: images, corruptions along the top eigenvector, reconstructions."""

from pathlib import Path
from typing import Any

import torch

from models.vae import VAE
from pullback.arguments import require_integer
from pullback.attacks import EigenAttack

from .. import named_arrays, pictures
from ..pictures import DELTAS, Pictures, attacked
from .seeds import NAMES
from .vaes import Subject, Vaes, decoder_of, encoder_of, unusual

QUICK_SHOWN = 4
PAPERS_BETA, DIGITS_BETA = 1.0, 0.2


def gallery(
    out: str,
    beta: float | None = None,
    mixup: float = 0.0,
    mixup_form: str = "text",
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
        beta: weight of the Kullback-Leibler divergence; 1 as in the paper if absent, and 0.2 for
            digits, whose code has collapsed at 1.
        mixup: weight of the mixup penalty.
        mixup_form: text, as the paper's text has the penalty, or code, as the authors' code has it.
        combined: take the metric of Eq. 11, as in Figures 8 and 9, for that of Eq. 4.
        shown: how many held-out images.
        quick: at most four of them.
        redraw: draw what the folder holds, whatever it was made with.
        options: see :class:`Vaes`.
    """
    require_integer("shown", shown, 1)
    shown = min(shown, QUICK_SHOWN) if quick else shown
    vaes = Vaes(out, **options)
    if beta is None:
        beta = DIGITS_BETA if vaes.dataset == "digits" else PAPERS_BETA
    subject = Subject(beta, mixup, mixup_form)
    stem = f"gallery{'-combined' * combined}-{subject.name}"
    path = Path(out, f"{stem}.h5")
    facts: dict[str, Any] = {"beta": beta, "mixup": mixup, "combined": combined, "shown": shown}
    facts |= {"mixup_form": mixup_form} if mixup_form != "text" else {}
    title = f"What two steps along the top eigenvector do: {vaes.dataset}, β = {beta:g}"
    title += f", mixup{NAMES[mixup_form]} of weight {mixup:g}" if mixup else ""
    title += unusual(vaes.configuration)
    title += f"\nx + δλη, η of {'Eq. 11' if combined else 'Eq. 4'}, clipped to [0, 1]; norms are "
    title += "means over the images shown"
    configuration = {**vaes.configuration, **facts, "title": title}
    if not redraw and not named_arrays.holds(path, configuration):
        x = vaes.held_out(shown)
        made = make(vaes.get(subject), x, title, combined=combined, seed=vaes.seed)
        pictures.write(path, made, configuration)
    print(f"figure     {pictures.read(path).save(path.with_suffix('.png'))}")


def make(
    vae: VAE, x: torch.Tensor, title: str, *, combined: bool = False, seed: int = 0
) -> Pictures:
    """Originals, the paper's two corruptions of each, and what the VAE makes of all three."""
    encoder = encoder_of(vae)
    decoder = decoder_of(vae) if combined else None
    attacks = []
    for delta in DELTAS:
        attack = EigenAttack(encoder, delta=delta, decoder=decoder, clip=(0, 1))
        moved = attack(x, generator=torch.Generator(x.device).manual_seed(seed))
        attacks.append((moved.step, moved.x))
    return attacked(vae, x, attacks, title)

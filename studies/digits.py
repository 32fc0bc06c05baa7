"""The main job on embedded data: train a β-VAE on 8×8 digits, score held-out ones, draw both."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pullback as pb
from models import datasets, training
from models.vae import VAE
from pullback import archive, cli
from pullback.archive.manifest import refuse_foreign_folder
from pullback.jobs import Settings, from_array, score_images

from .pictures import DELTAS, Pictures, attacked, save_figure
from .train import DIGITS

EPOCHS = 200
SHOWN = 10


def digits(out: str, beta: float = 0.5, seed: int = 0) -> None:
    """Train a small β-VAE on scikit-learn's digits, score the held-out ones, draw a figure.

    Args:
        out: run folder for shards, archive.h5, vae.safetensors and digits.png.
        beta: weight of the Kullback-Leibler divergence.
        seed: of training and scoring; the same seed gives the same numbers.
    """
    run, split = Path(out), datasets.load("digits")
    refuse_foreign_folder(run)
    vae = training.train(split.train, beta=beta, epochs=EPOCHS, seed=seed, **DIGITS)
    images = from_array(Path("digits"), split.test.numpy(), split.test_labels.numpy())
    score_images(
        pb.as_map(vae.encode, returns="mean_logvar"),
        images,
        run,
        Settings(seed=seed, directions=True),
        provenance={"factory": "studies.digits"},
    )
    training.save(vae, run / "vae.safetensors", dataset="digits", beta=beta, seed=seed)
    figure = draw(vae, split.test, archive.read(run), run / "digits.png")
    print(cli.summary(run))
    print(f"\nfigure     {figure}")


@torch.no_grad()
def draw(vae: VAE, images: Tensor, scores: dict[str, NDArray], path: Path) -> Path:
    """Originals, corruptions along the top eigenvector and reconstructions; histograms."""
    figure = plt.figure(figsize=(10, 8.4), layout="constrained")
    panels = np.asarray(figure.subfigures(2, 1, height_ratios=(6, 2.6)))
    _gallery(vae, images, scores).draw(panels[0])
    axes = panels[1].subplots(1, 2)
    for axis, name, label in (
        (axes[0], "spectral_radius", "spectral radius ρ [latent²/input²]"),
        (axes[1], "entropy", "entropy S of the normalised spectrum [nat]"),
    ):
        axis.hist(scores[name], bins=30, color="0.4")
        axis.set(xlabel=label, ylabel="held-out images")
    return save_figure(figure, path)


def _gallery(vae: VAE, images: Tensor, scores: dict[str, NDArray]) -> Pictures:
    # One of each digit, so that the rows can be compared at a glance.
    chosen = [int(np.flatnonzero(scores["label"] == digit)[0]) for digit in range(SHOWN)]
    x = images[chosen]
    radius = torch.from_numpy(scores["spectral_radius"][chosen])
    step = radius[:, None] * torch.from_numpy(scores["directions"][chosen, 0])
    # An eigenvector has no sign of its own: take the one that leads into the images' range.
    inward = (step.unflatten(1, x.shape[1:]) * (0.5 - x)).flatten(1).sum(1).sign()
    step = (inward[:, None] * step).unflatten(1, x.shape[1:])
    steps = [delta * step for delta in DELTAS]
    title = "x + δλη along the top eigenvector η of the pullback metric, clipped to [0, 1]"
    return attacked(vae, x, [(one, (x + one).clamp(0, 1)) for one in steps], title)

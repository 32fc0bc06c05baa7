"""Train the paper's VAE for a data set, and keep its checkpoint."""

from pathlib import Path

import torch

from models import datasets, training
from models.vae import MLPVAE, ConvVAE


def train(
    out: str,
    dataset: str = "mnist",
    data: str | None = None,
    beta: float = 1.0,
    epochs: int = 10,
    likelihood: str = "gaussian",
    seed: int = 0,
    download: bool = False,
) -> None:
    """Train the paper's VAE, convolutional for photos, and write its checkpoint as safetensors.

    Args:
        out: file for the checkpoint, ending in .safetensors.
        dataset: digits, photos, mnist or fashion-mnist.
        data: folder with the IDX files of mnist or fashion-mnist; the variable PULLBACK_DATA if
            absent.
        beta: weight of the Kullback-Leibler divergence.
        epochs: passes over the training images.
        likelihood: gaussian (sum of squared errors) or bernoulli.
        seed: of weights, order and noise.
        download: fetch the data from openml.org if there is no folder.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ValueError(f"the checkpoint's name must end in .safetensors, got {out!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for the checkpoint")
    split = datasets.load(dataset, data, download)
    path.parent.mkdir(parents=True, exist_ok=True)
    vae = training.train(
        split.train,
        ConvVAE if dataset == "photos" else MLPVAE,
        beta=beta,
        epochs=epochs,
        likelihood=likelihood,
        seed=seed,
    )
    training.save(vae, path, dataset=dataset, beta=beta, epochs=epochs, seed=seed)
    with torch.no_grad():
        error = (vae.decode(vae.encode(split.test)[0]) - split.test).square().mean()
    variance = split.test.var(dim=0).mean()
    print(
        f"wrote {path}; mean squared error of the held-out reconstructions: {error:.4f}, "
        f"where the pixels' variance is {variance:.4f}"
    )

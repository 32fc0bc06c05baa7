"""Training of variational autoencoders, and their checkpoints."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .losses import LIKELIHOODS, negative_elbo
from .vae import MLPVAE, VAE, ConvVAE

LEARNING_RATE = 0.003
_ARCHITECTURES: dict[str, type[VAE]] = {"MLPVAE": MLPVAE, "ConvVAE": ConvVAE}


def train(
    images: Tensor,
    architecture: type[VAE] = MLPVAE,
    *,
    beta: float = 1.0,
    epochs: int = 10,
    batch_size: int = 128,
    likelihood: str = "gaussian",
    seed: int = 0,
    **widths: Any,
) -> VAE:
    """A new VAE, trained with Adam at a learning rate of 0.003 (App. A), in eval mode.

    The same seed gives the same weights on the same machine; the global generator is left alone.

    Args:
        images: ``(n, *event)`` in [0, 1], n ≥ 2.
        architecture: ``MLPVAE`` or ``ConvVAE`` of :mod:`models.vae`.
        beta: weight of the Kullback–Leibler divergence, > 0.
        epochs: passes over the images, ≥ 1.
        batch_size: images per step, ≥ 2 (batch normalisation needs two).
        likelihood: ``"gaussian"`` or ``"bernoulli"``, see :func:`models.losses.negative_elbo`.
        seed: of the initial weights, the order of the images and the latent noise.
        widths: further arguments of the architecture.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: the loss became NaN or infinite; the message says when.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    if epochs < 1 or batch_size < 2 or len(images) < 2:
        raise ValueError(
            "at least 1 epoch, 2 images and 2 images per step are needed, "
            f"got {epochs}, {len(images)} and {batch_size}"
        )
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r} is not one of {', '.join(LIKELIHOODS)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = architecture(images.shape[1:], **widths)
        optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE)
        with tqdm(total=epochs, unit="epoch", desc=f"training, β = {beta:g}") as progress:
            for epoch in range(epochs):
                loss = _epoch(vae, optimizer, images, beta, batch_size, likelihood)
                if not loss < float("inf"):
                    raise FloatingPointError(f"the loss is {loss} after epoch {epoch + 1}")
                progress.set_postfix(loss=f"{loss:.3f}")
                progress.update()
    return vae.eval()


def save(vae: VAE, path: Path, **facts: str | float) -> None:
    """Weights as safetensors, with the architecture and how it was trained as metadata."""
    metadata = {
        "class": type(vae).__name__,
        "architecture": json.dumps(vae.config),
        "training": json.dumps(facts),
    }
    save_file(vae.state_dict(), path, metadata)


def load(path: Path) -> VAE:
    """The VAE of a checkpoint made by :func:`save`, in eval mode.

    Raises:
        FileNotFoundError, ValueError: there is no checkpoint at ``path``.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if "architecture" not in metadata:
        raise ValueError(f"{path} does not say what architecture its weights are of")
    name = metadata.get("class", "MLPVAE")  # older checkpoints do not name it
    if name not in _ARCHITECTURES:
        raise ValueError(f"{path} holds a {name!r}, not one of {', '.join(_ARCHITECTURES)}")
    vae = _ARCHITECTURES[name](**json.loads(metadata["architecture"]))
    vae.load_state_dict(state)
    return vae.eval()


def _epoch(
    vae: VAE,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    beta: float,
    batch_size: int,
    likelihood: str,
) -> float:
    """One pass in random order; the mean loss."""
    losses = []
    for index in torch.randperm(len(images)).split(batch_size):
        if len(index) < 2:
            continue  # batch normalisation has no variance of one image
        x = images[index]
        reconstruction, mean, logvar = vae(x)
        loss = negative_elbo(x, reconstruction, mean, logvar, beta, likelihood)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()

"""The scores of one shard: a pure function of encoder, images, manifest and range."""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..archive.layout import Layout
from ..eigen import ConvergenceWarning, RankWarning, WarmStart
from ..maps import Map
from ..products import library_call
from ..sampling import SeedCounter
from ..scores import score
from .preparation import dtype_of
from .settings import Settings
from .sources import Images

_RENAMED = {"residual_norms": "residual_norm"}
_LEFT_OUT = ("n_products", "directions")
Columns = dict[str, NDArray]


class ScoredShard(NamedTuple):
    """What :func:`score_shard` makes: columns by name, and the SHA-256 of the images as read."""

    columns: Columns
    data_sha256: str


def score_shard(
    encoder: Map,
    images: Images,
    manifest: dict[str, Any],
    layout: Layout,
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    report: Callable[[int], object] = lambda _: None,
) -> ScoredShard:
    """Score some images of a run.

    Results depend on the arguments alone, and not on the batch size, except for rounding.

    Args:
        encoder: the map to score.
        images: the data set.
        manifest: see :func:`prepare`.
        layout: which images, and what of them.
        batch_size: images per product.
        device: where the encoder is; the CPU by default.
        report: is told after every batch how many images are done.

    Raises:
        ValueError: an image cannot be read, is not finite, or has changed since it was listed.
    """
    settings = Settings.of(manifest)
    warm = WarmStart() if settings.method == "nystrom" else None
    sha, batches = hashlib.sha256(), []
    for first in range(layout.start, layout.stop, batch_size):
        last = min(first + batch_size, layout.stop)
        values = images.read_finite(first, last)
        sha.update(np.ascontiguousarray(values).data)
        x = torch.from_numpy(values).to(device, dtype_of(encoder))
        batches.append(_score_batch(encoder, x, first, settings, warm))
        report(last - first)
    columns = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    columns |= images.describe(layout.start, layout.stop)
    return ScoredShard({name: columns[name] for name in layout.dtypes}, sha.hexdigest())


def _score_batch(
    encoder: Map, x: Tensor, first: int, settings: Settings, warm_start: WarmStart | None
) -> Columns:
    try:
        with warnings.catch_warnings():
            # They would come once a batch; `pullback info` counts them all.
            warnings.simplefilter("ignore", RankWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = score(
                encoder,
                x,
                settings.k,
                generator=SeedCounter(settings.seed, first),
                method=settings.method,
                tol=settings.tol,
                warm_start=warm_start,
            )
    except ValueError as error:
        raise ValueError(f"{error} (sample 0 being image {first} of the data)") from error
    columns = {
        _RENAMED.get(name, name): tensor.cpu().numpy()
        for name, tensor in vars(scores).items()
        if name not in _LEFT_OUT
    }
    columns["converged"] = columns["converged"].astype(np.int8)
    columns["failed"] = np.zeros(len(x), np.int8)
    if settings.directions:
        columns["directions"] = scores.directions.flatten(2).cpu().numpy()
    if settings.latents:
        columns |= _encode(encoder, x)
    return columns


@library_call
def _encode(encoder: Map, x: Tensor) -> Columns:
    """Mean and standard deviation of the codes; that of z = μ + Lε is the length of L's rows."""
    with torch.inference_mode():
        mean, std = encoder(x)
        columns = {"latent_mean": mean.flatten(1).cpu().numpy()}
        if std is not None:
            std = std if std.ndim == mean.ndim else torch.linalg.vector_norm(std, dim=-1)
            columns["latent_std"] = std.flatten(1).cpu().numpy()
    return columns

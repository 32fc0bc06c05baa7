"""The scores of one shard: a pure function of encoder, images, manifest and range."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..archive.layout import Layout
from ..archive.origin import Origin, describe_maker
from ..archive.shards import Shard
from ..archive.writing import write
from ..arguments import NotFiniteError
from ..eigen import ConvergenceWarning, RankWarning, WarmStart
from ..maps import Map
from ..products import library_call
from ..sampling import SeedCounter
from ..scores import score
from .images import BadImageError, Images
from .loading import Batch, Reader, cut
from .preparation import dtype_of
from .settings import Settings

log = logging.getLogger("pullback")

_RENAMED = {"residual_norms": "residual_norm"}
_LEFT_OUT = ("n_products", "directions")
Columns = dict[str, NDArray]


class ScoredShard(NamedTuple):
    """What :func:`score_shard` makes.

    Attributes:
        columns: by name.
        failures: why images could not be scored, by their index; their columns hold NaN.
        data_sha256: SHA-256 of the images as read.
        batch_size: the largest that fits into the memory, as far as is known.
    """

    columns: Columns
    failures: dict[str, str]
    data_sha256: str
    batch_size: int


def write_shard(
    encoder: Map,
    images: Images,
    manifest: dict[str, Any],
    shard: Shard,
    *,
    device: torch.device,
    accepted: list[str],
    command: str | None = None,
    **options: Any,
) -> int:
    """Score the images of a shard, and write its file; the largest batch that fits the memory.

    Args:
        encoder, images, manifest, device, options: see :func:`score_shard`.
        shard: which one.
        accepted, command: see :func:`pullback.archive.origin.describe_maker`.
    """
    scored = score_shard(encoder, images, manifest, shard.layout, device=device, **options)
    maker = describe_maker(device, accepted, command)
    origin = Origin([maker], scored.data_sha256, scored.failures)
    write(shard.path, shard.layout, [scored.columns], origin)
    return scored.batch_size


def score_shard(
    encoder: Map,
    images: Images,
    manifest: dict[str, Any],
    layout: Layout,
    *,
    batch_size: int = 64,
    device: torch.device | None = None,
    batches: Iterator[Batch] | None = None,
    report: Callable[[int], object] = lambda _: None,
) -> ScoredShard:
    """Score some images of a run.

    Results depend on the arguments alone, and not on the batch size, except for rounding. A batch
    that does not fit into the memory is halved. An image where the encoder or its derivative is not
    finite is noted as failed, and so is one that cannot be read where these are to be skipped.

    Args:
        encoder: the map to score.
        images: the data set.
        manifest: see :func:`prepare`.
        layout: which images, and what of them.
        batch_size: images per product.
        device: where the encoder is; the CPU by default.
        batches: these images as they have been read already; read here by default.
        report: is told after every batch how many images are done.

    Raises:
        ValueError: an image cannot be read, is not finite, or has changed since it was listed.
        MemoryError: a single image does not fit into the memory.
    """
    scorer = _Scorer(encoder, Settings.of(manifest), layout, device, batch_size)
    sha = hashlib.sha256()
    scored: list[Columns] = []
    described: list[Columns] = []
    first = layout.start
    for batch in batches or Reader(images).read(cut(layout.start, layout.stop, batch_size)):
        for start, part in batch.parts:
            if isinstance(part, BadImageError):
                scored.append(scorer.fail(start, str(part)))
                continue
            sha.update(part.numpy().data)
            scored += scorer.score(part, start)
        described.append(batch.columns)
        report(batch.stop - first)
        first = batch.stop
        if first == layout.stop:
            break
    columns = _concatenate(scored) | _concatenate(described)
    ordered = {name: columns[name] for name in layout.dtypes}
    return ScoredShard(ordered, scorer.failures, sha.hexdigest(), scorer.batch_size)


def _concatenate(tables: list[Columns]) -> Columns:
    """Those columns that all of them have."""
    names = set.intersection(*map(set, tables))
    return {name: np.concatenate([table[name] for table in tables]) for name in names}


class _Scorer:
    """Scores batches, and halves those that do not fit into the memory, or that fail."""

    def __init__(
        self,
        encoder: Map,
        settings: Settings,
        layout: Layout,
        device: torch.device | None,
        batch_size: int,
    ) -> None:
        self._encoder = encoder
        self._settings = settings
        self._layout = layout
        self._place = device, dtype_of(encoder)
        self._warm_start = WarmStart() if settings.method == "nystrom" else None
        self.batch_size = batch_size
        self.failures: dict[str, str] = {}

    def score(self, x: Tensor, first: int) -> list[Columns]:
        """Columns of all images, in one part or several."""
        if len(x) > self.batch_size:
            return self._score_halves(x, first)
        try:
            device, dtype = self._place
            return [self._score_batch(x.to(device, dtype, non_blocking=True), first)]
        except NotFiniteError as error:
            if len(x) == 1:
                return [self.fail(first, str(error).removesuffix(" in sample 0"))]
        except (RuntimeError, ValueError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(x) == 1:
                raise MemoryError(f"image {first} alone does not fit into the memory") from error
            if len(x) // 2 < self.batch_size:
                self.batch_size = len(x) // 2
                log.warning("out of memory: going on with batches of %d images", self.batch_size)
        # Not above, where the error still holds the memory.
        if self._place[0] is not None and self._place[0].type == "cuda":
            torch.cuda.empty_cache()
        return self._score_halves(x, first)

    def _score_halves(self, x: Tensor, first: int) -> list[Columns]:
        half = len(x) // 2
        return self.score(x[:half], first) + self.score(x[half:], first + half)

    def _score_batch(self, x: Tensor, first: int) -> Columns:
        settings = self._settings
        with warnings.catch_warnings():
            # They would come once a batch; `pullback info` counts them all.
            warnings.simplefilter("ignore", RankWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = score(
                self._encoder,
                x,
                settings.k,
                generator=SeedCounter(settings.seed, first),
                method=settings.method,
                tol=settings.tol,
                entropy_tol=settings.entropy_tol,
                warm_start=self._warm_start,
            )
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
            columns |= _encode(self._encoder, x)
        return columns

    def fail(self, index: int, reason: str) -> Columns:
        """Note an image that could not be scored; what is written of it."""
        self.failures[str(index)] = reason
        one = self._layout.select(0, 1)
        missing = {"f": np.nan, "i": 0}
        columns = {
            name: np.full(one.shape(name), missing[dtype.kind], dtype)
            for name, dtype in one.dtypes.items()
            if dtype.kind in missing
        }
        return columns | {"failed": np.ones(1, np.int8)}


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this, or what it was caused by, is what PyTorch or Python says then."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and "not enough memory" in str(error):
            return True
        error = error.__cause__
    return False


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

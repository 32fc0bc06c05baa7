"""The scores of one shard: a pure function of encoder, images, manifest and range."""

import functools
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
from .images import BadImageError, Images, as_numbers
from .loading import Batch, Reader, cut, tells_of_an_end
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
    finite, or whose scores have no place in the dtype, is noted as failed, and so is one that
    cannot be read where these are to be skipped.

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
        ValueError: an image cannot be read, is not finite, or has changed since it was listed; or
            the encoder fails on some images, which are named.
        RuntimeError: it fails with one, likewise.
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
            return [self._score_batch(self._to_device(x), first)]
        except NotFiniteError as error:
            if len(x) == 1:
                reason = str(error).removesuffix(" in sample 0").replace(" of sample 0,", ",", 1)
                return [self.fail(first, reason)]
        except Exception as error:  # the encoder is anyone's code
            if tells_of_an_end(error):
                raise
            if not _is_out_of_memory(error):
                raise _told_of(error, first, first + len(x) - 1) from error
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

    def _to_device(self, x: Tensor) -> Tensor:
        """Stored images as the encoder takes them; bytes travel as bytes."""
        device, dtype = self._place
        if device is not None and device.type == "cuda":
            with torch.cuda.device(device):
                x = x.pin_memory()  # where a loader has not done so
        return as_numbers(x.to(device, non_blocking=True), dtype)

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
        wanted = {n: tensor for n, tensor in vars(scores).items() if n not in _LEFT_OUT}
        if settings.directions:
            wanted["directions"] = scores.directions.flatten(2)
        if settings.latents:
            wanted |= _encode(self._encoder, x)
        columns = {_RENAMED.get(n, n): tensor.numpy() for n, tensor in to_host(wanted).items()}
        columns["converged"] = columns["converged"].astype(np.int8)
        columns["failed"] = np.zeros(len(x), np.int8)
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


def _told_of(error: Exception, first: int, last: int) -> Exception:
    """What the encoder has raised, with the images that it was given."""
    kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
    name = "" if isinstance(error, kind | TypeError) else f"{type(error).__name__}: "
    return kind(f"{name}{error} (in images {first} to {last})")


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether this, or what it was caused by, is what PyTorch or Python says then."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and "not enough memory" in str(error):
            return True
        error = error.__cause__
    return False


def to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors ``(B, …)``, on the host: by one copy, as the host waits for the device in each."""
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return tensors
    return unpack(pack(tensors).cpu(), tensors)


def pack(tensors: dict[str, Tensor]) -> Tensor:
    """Tensors ``(B, …)`` side by side as one, ``(B, n)``, in the widest of their dtypes."""
    rows = [tensor.reshape(len(tensor), -1) for tensor in tensors.values()]
    widest = functools.reduce(torch.promote_types, (row.dtype for row in rows))
    return torch.cat([row.to(widest) for row in rows], dim=1)


def unpack(packed: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`pack` has packed."""
    parts = packed.split([tensor[0].numel() for tensor in like.values()], dim=1)
    return {
        name: part.reshape(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


@library_call
def _encode(encoder: Map, x: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation of the codes; that of z = μ + Lε is the length of L's rows."""
    with torch.inference_mode():
        mean, std = encoder(x)
        columns = {"latent_mean": mean.flatten(1)}
        if std is not None:
            std = std if std.ndim == mean.ndim else torch.linalg.vector_norm(std, dim=-1)
            columns["latent_std"] = std.flatten(1)
    return columns

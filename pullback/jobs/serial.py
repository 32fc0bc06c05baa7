"""A data set scored into a run folder, shard by shard; the same command again resumes it."""

import hashlib
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ..archive.columns import FORMAT, choose_columns
from ..archive.manifest import refuse_foreign_folder, start_or_resume
from ..archive.reading import verify
from ..archive.shards import Shard, list_shards
from ..archive.writing import write
from ..arguments import plain, require_choice, require_integer, usable_device
from ..eigen import METHODS, ConvergenceWarning, RankWarning, WarmStart
from ..maps import Map
from ..sampling import draw_seeds
from ..scores import score
from ..version import __version__
from .sources import Images

log = logging.getLogger("pullback")

_RENAMED = {"residual_norms": "residual_norm"}
_LEFT_OUT = ("n_products", "directions")


@dataclass(frozen=True)
class Settings:
    """All that decides the numbers of a run, beside encoder and images.

    Attributes:
        k: eigenpairs per image.
        seed: of the Krylov starts and probes.
        directions: whether the eigenvectors are stored too.
        method: see :func:`pullback.score`; ``"nystrom"`` learns its sketch anew in every shard, so
            that a shard does not depend on those before it.
    """

    k: int = 5
    seed: int = 0
    directions: bool = False
    method: str = "auto"

    def __post_init__(self) -> None:
        require_choice("method", self.method, ("auto", *METHODS))
        require_integer("seed", self.seed, 0, 2**63 - 1)


def score_images(
    encoder: Map,
    images: Images,
    run: str | Path,
    settings: Settings | None = None,
    *,
    batch_size: int = 64,
    shard_size: int = 512,
    device: str = "cpu",
    provenance: dict[str, Any] | None = None,
) -> None:
    """Score every image, and leave the finished shards in ``run``.

    Each shard is computed in memory and published whole. Shards that are there already are not
    computed again; results do not depend on the batch size, the shard size or interruptions.

    Args:
        encoder: the map to score; its module is moved to ``device``.
        images: the data set; computed with in the dtype of the encoder.
        run: the folder, made if absent.
        settings: see :class:`Settings`.
        batch_size: images per product.
        shard_size: images per shard.
        device: any that PyTorch knows.
        provenance: further facts about the encoder that two runs must share to be the same run.

    Raises:
        FileExistsError: the folder holds another run, or other files.
        TypeError, ValueError: see :func:`pullback.score`; nothing is written if the first image
            already fails.
    """
    run, settings = Path(run), settings or Settings()
    refuse_foreign_folder(run)
    require_integer("batch_size", batch_size, 1)
    require_integer("shard_size", shard_size, 1)
    target = usable_device(device)
    for module in encoder.modules():
        module.to(target)
    dtype = _dtype_of(encoder)
    described = _describe_images(images)
    outputs = _check_first(encoder, images, settings.k, target, dtype)
    manifest = {
        "format": FORMAT,
        "encoder": {
            **(provenance or {}),
            "returns": encoder.returns,
            "pick": list(encoder.pick) if isinstance(encoder.pick, tuple) else encoder.pick,
            "outputs": outputs,
            "weights": _hash_tensors(encoder),
        },
        "data": {
            "name": images.path.name,
            "count": images.count,
            "event_shape": list(images.event_shape),
            "sha256": images.digest(),
        },
        "score": {**vars(settings), "dtype": plain(dtype)},
        "shard_size": shard_size,
        "sizes": _sizes(images, settings, described),
        "columns": choose_columns(
            plain(dtype), [*described, *(["directions"] if settings.directions else [])]
        ),
        "versions": {"pullback": __version__, "torch": torch.__version__},
    }
    start_or_resume(run, manifest)

    todo = [shard for shard in list_shards(run, manifest) if not _is_finished(shard)]
    done = images.count - sum(shard.layout.count for shard in todo)
    with tqdm(total=images.count, initial=done, unit="image", desc="scoring") as progress:
        for shard in todo:
            start, stop = shard.start, shard.stop
            # The seeds of earlier images are skipped: every image has its own wherever one starts.
            generator = torch.Generator().manual_seed(settings.seed)
            draw_seeds(start, generator)
            warm = WarmStart() if settings.method == "nystrom" else None
            batches = []
            for first in range(start, stop, batch_size):
                last = min(first + batch_size, stop)
                x = torch.from_numpy(images.read(first, last)).to(target, dtype)
                batches.append(_score_batch(encoder, x, first, settings, generator, warm))
                progress.update(last - first)
            columns = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
            columns |= {name: array[start:stop] for name, array in described.items()}
            write(shard.path, shard.layout, [columns])


def _score_batch(
    encoder: Map,
    x: Tensor,
    first: int,
    settings: Settings,
    generator: torch.Generator,
    warm_start: WarmStart | None,
) -> dict[str, NDArray]:
    try:
        with warnings.catch_warnings():
            # They would come once a batch; `pullback info` counts them all.
            warnings.simplefilter("ignore", RankWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores = score(
                encoder,
                x,
                settings.k,
                generator=generator,
                method=settings.method,
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
    if settings.directions:
        columns["directions"] = scores.directions.flatten(2).cpu().numpy()
    return columns


def _describe_images(images: Images) -> dict[str, NDArray]:
    """Labels and file names of all images, where there are any."""
    columns: dict[str, NDArray] = {}
    if images.labels is not None:
        columns["label"] = images.labels
    if images.names is not None:
        columns["file"] = np.array([name.encode() for name in images.names])
    return columns


def _sizes(images: Images, settings: Settings, described: dict[str, NDArray]) -> dict[str, int]:
    """Lengths of the dimensions of the columns, besides the number of images."""
    sizes = {"rank": settings.k}
    if settings.directions:
        sizes["input"] = math.prod(images.event_shape)
    if "file" in described:
        sizes["character"] = described["file"].dtype.itemsize
    return sizes


def _dtype_of(encoder: Map) -> torch.dtype:
    """float64 if that is the encoder's own, else float32."""
    tensors = [t for module in encoder.modules() for t in module.parameters()]
    floating = [t.dtype for t in tensors if t.is_floating_point()]
    return torch.float64 if floating and floating[0] == torch.float64 else torch.float32


def _check_first(
    encoder: Map, images: Images, k: int, device: torch.device, dtype: torch.dtype
) -> int:
    """Refuse what can be wrong with encoder and options, before any work; the encoder's outputs."""
    n = int(np.prod(images.event_shape))
    require_integer("k", k, 1, n, "N")
    samples = torch.from_numpy(images.read(0, min(2, images.count))).to(device, dtype)
    try:
        return encoder.check(samples).num_outputs
    except ValueError as error:
        raise ValueError(f"{error} (tried on the first images of {images.path})") from error


def _hash_tensors(encoder: Map) -> str:
    """SHA-256 of every parameter and buffer that the encoder uses, wherever it finds them."""
    sha = hashlib.sha256()
    named = [pair for module in encoder.modules() for pair in module.state_dict().items()]
    for name, tensor in [*named, *(("", tensor) for tensor in encoder.constants())]:
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def _is_finished(shard: Shard) -> bool:
    """Whether a shard is there and whole; one that is not is made again."""
    if not shard.path.exists():
        return False
    try:
        verify(shard.path, shard.layout)
    except ValueError as error:
        log.warning("%s; scoring its images again", error)
        return False
    return True

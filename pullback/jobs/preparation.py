"""What a run is made from, before any work: encoder, images and settings, as its manifest."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..archive.columns import FORMAT, choose_columns
from ..arguments import NotFiniteError, plain, require_integer
from ..maps import Map, Signature
from ..version import __version__
from .images import BadImageError, Images, as_numbers
from .settings import Settings

_MOST_LATENTS = 1024
# Numbers in the images of a shard, or in the directions that are stored of them.
_SHARD_NUMBERS = 2**22
# Pairs of images on which an encoder may be not finite before it is said to be so on all.
_MOST_TRIED = 16


def prepare(
    encoder: Map,
    images: Images,
    settings: Settings,
    *,
    shard_size: int | None = None,
    device: torch.device | None = None,
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a run. Of the images, only the first that can be read are.

    Args:
        encoder: the map to score.
        images: the data set.
        settings: see :class:`Settings`.
        shard_size: images per shard; see :func:`pullback.score_images`.
        device: where the encoder is; the CPU by default.
        provenance: further facts about the encoder that two runs must share to be the same run.

    Raises:
        TypeError, ValueError: encoder, images or settings cannot be used; or ``provenance`` holds
            what JSON does not.
    """
    k = require_integer("k", settings.k, 1, math.prod(images.event_shape), "N")
    settings = replace(settings, k=k)
    shard_size = _choose_shard_size(shard_size, images, settings)
    dtype = dtype_of(encoder)
    described = describe_encoder(encoder)  # as it is before its first call
    signature = _check_first(encoder, images, dtype, device)
    if settings.latents is None:
        settings = replace(settings, latents=signature.mean_shape.numel() <= _MOST_LATENTS)
    sizes = _optional_sizes(images, settings, signature)
    return {
        "format": FORMAT,
        "encoder": {
            **_as_read_again(provenance or {}),
            **described,
            "outputs": signature.num_outputs,
        },
        "data": {
            "name": _name_of(images.path),
            "count": images.count,
            "event_shape": list(images.event_shape),
            **images.facts,
        },
        "score": {**vars(settings), "dtype": plain(dtype)},
        "shard_size": shard_size,
        "sizes": {"rank": settings.k} | {name: n for size in sizes.values() for name, n in size},
        "columns": choose_columns(plain(dtype), sizes),
        "versions": {"pullback": __version__, "torch": torch.__version__},
    }


def _name_of(path: Path) -> str:
    """The last part of a path, or of what it stands for if it ends in dots."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def _as_read_again(provenance: dict[str, Any]) -> dict[str, Any]:
    """Facts as a manifest gives them back, which has lists for tuples and text for keys."""
    try:
        return dict(json.loads(json.dumps(provenance, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"provenance must be a dictionary that JSON can hold, got {provenance!r}: {error}"
        ) from error


def _choose_shard_size(shard_size: int | None, images: Images, settings: Settings) -> int:
    """The number that is wanted, or enough to take far longer to score than a file to write.

    A file of few images takes as long as one of many: some hundredths of a second.
    """
    if shard_size is not None:
        return require_integer("shard_size", shard_size, 1)
    numbers = math.prod(images.event_shape) * (settings.k if settings.directions else 1)
    return min(4096, max(512, _SHARD_NUMBERS // numbers))


def describe_encoder(encoder: Map) -> dict[str, Any]:
    """What tells an encoder from others, without an image to apply it to."""
    return {
        "returns": encoder.returns,
        "pick": list(encoder.pick) if isinstance(encoder.pick, tuple) else encoder.pick,
        "weights": _hash_tensors(encoder),
    }


def dtype_of(encoder: Map) -> torch.dtype:
    """float64 if that is the encoder's own, else float32."""
    parameters = (t for module in encoder.modules() for t in module.parameters())
    buffers = (t for module in encoder.modules() for t in module.buffers())
    tensors = chain(parameters, buffers, encoder.constants())
    floating = [t.dtype for t in tensors if t.is_floating_point()]
    return torch.float64 if floating and floating[0] == torch.float64 else torch.float32


def _optional_sizes(
    images: Images, settings: Settings, signature: Signature
) -> dict[str, list[tuple[str, int]]]:
    """The optional columns of the run, with the lengths of dimensions that they bring along."""
    sizes: dict[str, list[tuple[str, int]]] = {}
    latent = [("latent", signature.mean_shape.numel())]
    if settings.latents:
        sizes["latent_mean"] = latent
    if settings.latents and signature.std_shape is not None:
        sizes["latent_std"] = latent
    if settings.directions:
        sizes["directions"] = [("input", math.prod(images.event_shape))]
    if images.labels is not None:
        sizes["label"] = []
    if images.names is not None:
        sizes["file"] = [("character", max(len(name.encode()) for name in images.names))]
    return sizes


def _check_first(
    encoder: Map, images: Images, dtype: torch.dtype, device: torch.device | None
) -> Signature:
    """Refuse what can be wrong with the encoder, before any work; what it returns.

    That it is not finite may be a matter of the first images, which are noted as failed later.
    """
    failure = None
    for part in islice(_read_good(images), _MOST_TRIED):
        try:
            return encoder.check(as_numbers(torch.from_numpy(part).to(device), dtype))
        except ValueError as error:
            told = ValueError(f"{error} (tried on the first images of {images.path})")
            if not isinstance(error, NotFiniteError):
                raise told from error
            failure = failure or told
    raise failure or ValueError(f"none of the images of {images.path} can be read")


def _read_good(images: Images) -> Iterator[NDArray]:
    """Images as stored, two at a time, or one where the other is skipped or there is no other."""
    for start in range(0, images.count, 2):
        for _, part in images.read_parts(start, min(start + 2, images.count)):
            if not isinstance(part, BadImageError):
                yield part


def _hash_tensors(encoder: Map) -> str:
    """SHA-256 of every parameter and buffer that the encoder uses, wherever it finds them."""
    sha = hashlib.sha256()
    named = [pair for module in encoder.modules() for pair in _named_tensors(module)]
    for name, tensor in [*named, *(("", tensor) for tensor in encoder.constants())]:
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in _dense_parts(tensor.detach().cpu()):
            sha.update(part.contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that are saved, then buffers that are not, but take part in the result all the same."""
    saved = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    yield from saved.items()
    yield from ((name, t) for name, t in module.named_buffers() if name not in saved)


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    if tensor.layout == torch.strided:
        return [tensor.resolve_conj().resolve_neg()]
    sparse = tensor.to_sparse_coo().coalesce()
    return [sparse.indices(), sparse.values()]

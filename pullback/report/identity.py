"""Whether images and encoder that are given for a report are those of its run."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..archive.configuration import find_differences
from ..archive.reading import origin_of
from ..archive.shards import Shard, find_shard
from ..jobs import Images
from ..jobs.images import BadImageError
from ..jobs.loading import cut
from ..jobs.preparation import describe_encoder
from ..maps import Map

log = logging.getLogger("pullback")

# What tells nothing about the pixels: what the data are called, when they were copied, and labels,
# which the run has.
_HARMLESS = {"name", "modified", "labels"}
_BATCH = 64


def require_same_images(images: Images, manifest: dict[str, Any]) -> None:
    """Refuse images that are not those of the run, as far as is known without reading them."""
    given = {"count": images.count, "event_shape": list(images.event_shape), **images.facts}
    held = {name: value for name, value in manifest["data"].items() if name not in _HARMLESS}
    given = {name: value for name, value in given.items() if name not in _HARMLESS}
    differences = find_differences(held, given)
    if differences:
        raise ValueError(
            f"{images.path} holds other images than the run: {'; '.join(differences.values())}"
        )


def require_same_pixels(
    images: Images, run: Path, manifest: dict[str, Any], indices: Iterable[int]
) -> None:
    """Refuse images whose pixels are not those that were scored.

    Another array may have the same size, and another data set the same first item. So the shards
    that the images at some indices are in are read again, and their checksums compared.
    """
    held = manifest["data"]
    dated = "modified" in held and held["modified"] == images.facts.get("modified")
    if dated or "sha256" in held:  # of all images, and compared before
        return
    for number in sorted({int(index) // manifest["shard_size"] for index in indices}):
        shard = find_shard(run, manifest, number)
        if not shard.path.exists():
            log.warning(
                "%s has another date than the images that were scored, and without the shards of "
                "%s nobody knows whether they are the same",
                *(images.path, run),
            )
            return
        scored = origin_of(shard.path).data_sha256
        if scored and scored != _checksum(images, shard):
            raise ValueError(
                f"{images.path} holds other images than the run: images {shard.start} to "
                f"{shard.stop - 1} have another checksum"
            )


def _checksum(images: Images, shard: Shard) -> str:
    """That of the images of a shard, as it is taken where they are scored."""
    sha, images = hashlib.sha256(), replace(images, skip_bad=True)
    for start, stop in cut(shard.start, shard.stop, _BATCH):
        for _, part in images.read_parts(start, stop):
            if not isinstance(part, BadImageError):
                sha.update(np.ascontiguousarray(part).data)
    return sha.hexdigest()


def require_same_encoder(encoder: Map, manifest: dict[str, Any]) -> None:
    """Refuse an encoder with other weights, or declared in another way, than that of the run."""
    given = describe_encoder(encoder)
    held = {name: manifest["encoder"].get(name) for name in given}
    differences = find_differences(held, given)
    if differences:
        raise ValueError(
            f"the encoder is another than that of the run: {'; '.join(differences.values())}"
        )

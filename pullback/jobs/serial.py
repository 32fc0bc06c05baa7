"""Shards scored one after the other, in this process."""

from collections.abc import Callable
from typing import Any

import torch

from ..archive.shards import Shard
from ..maps import Map
from .images import Images
from .loading import cut, reading
from .shards import write_shard


def score_serially(
    encoder: Map,
    images: Images,
    manifest: dict[str, Any],
    shards: list[Shard],
    *,
    batch_size: int,
    device: torch.device,
    accepted: list[str],
    loaders: int,
    report: Callable[[int], object],
) -> None:
    """Score shards, and write their files.

    Args:
        encoder, images, manifest, batch_size, device, report: see
            :func:`pullback.jobs.shards.score_shard`.
        shards: those to score.
        accepted: see :func:`pullback.archive.origin.describe_maker`.
        loaders: processes that read ahead, across shards.
    """
    with reading(images, loaders, device) as reader:
        batches = reader.read(
            batch for shard in shards for batch in cut(shard.start, shard.stop, batch_size)
        )
        for shard in shards:
            batch_size = write_shard(
                encoder,
                images,
                manifest,
                shard,
                batch_size=batch_size,
                device=device,
                accepted=accepted,
                batches=batches,
                report=report,
            )

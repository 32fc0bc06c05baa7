"""A data set scored into a run folder, shard by shard; the same command again resumes it."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..archive.manifest import refuse_foreign_folder, start_or_resume
from ..archive.origin import this_command
from ..archive.reading import verify
from ..archive.run import is_merged
from ..archive.run import merge as merge_shards
from ..archive.shards import Shard, list_shards
from ..arguments import require_integer
from ..metrics import Encoder
from .actor import Assignment
from .datasets import from_dataset
from .encoders import EncoderSpec, make_encoder
from .images import Images
from .loading import choose_batch_size, choose_loaders
from .preparation import prepare
from .progress import show_progress
from .ray_driver import pack, score_with_ray
from .serial import score_serially
from .settings import Settings
from .workers import Workers

log = logging.getLogger("pullback")


def score_images(
    encoder: Encoder | EncoderSpec,
    images: Images | Dataset[Any],
    run: str | Path,
    settings: Settings | None = None,
    *,
    batch_size: int | None = None,
    shard_size: int | None = None,
    device: str | torch.device = "cpu",
    loaders: int | None = None,
    provenance: dict[str, Any] | None = None,
    accept_changes: Collection[str] = (),
    share: tuple[int, int] | None = None,
    merge: bool = True,
    progress: bool = True,
    workers: int | Workers | None = None,
) -> None:
    """Score every image into the folder ``run``, and merge its shards into ``archive.h5``.

    Each shard is computed in memory and published whole. Shards that are there already are not
    computed again; results do not depend on the batch size, the shard size or interruptions. Images
    where the encoder is not finite have NaN for scores, and 1 in the column ``failed``.

    Args:
        encoder: the map to score, as for :func:`pullback.score`, whose module is moved to
            ``device``; or what it is made from.
        images: the data set, from :func:`pullback.jobs.open_images`, or a map-style
            ``torch.utils.data.Dataset``, or one of Hugging Face's. Its items are an image (a tensor
            or an array in uint8 or floating point, or one of Pillow), or a tuple that starts with
            one; a second that is an integer is its label; or a dictionary with an ``"image"`` and,
            perhaps, a ``"label"``. Computed with in the dtype of the encoder.
        run: the folder, made if absent.
        settings: see :class:`Settings`.
        batch_size: images per product; by default 32 to 512, the more the smaller they are.
        shard_size: images per shard; by default 512 to 4096, the more the smaller they are.
        device: any that PyTorch knows.
        loaders: processes that read images while others are scored, started as those of
            ``torch.utils.data.DataLoader`` are; 0 reads between batches. By default one for each
            core, at most 8, for image files on a GPU, and 0 otherwise.
        provenance: further facts about the encoder that two runs must share to be the same run:
            what JSON can hold.
        accept_changes: what may differ from the run that is resumed, by its place in the manifest,
            such as ``"versions.torch"``.
        share: ``(i, n)`` scores the i-th of n equal shares of the shards, counted from 1, for n
            processes that each do one; :func:`pullback.archive.merge` gathers them afterwards.
        merge: whether to merge in the end; never done for a share.
        progress: whether to show how far it is.
        workers: how many processes score shards side by side, each on ``device``, ``"cuda"`` being
            what Ray gives it; or see :class:`Workers`, for other machines too. They are sent
            encoder and images, or make them anew where it is known how. By default this process
            scores.

    Raises:
        FileExistsError: the folder holds another run, or other files.
        ImportError: there are to be workers, and Ray is not installed.
        TypeError, ValueError: see :func:`pullback.score`; nothing is written if the first image
            already fails.
    """
    run, settings, device = Path(run), settings or Settings(), str(device)
    refuse_foreign_folder(run)
    images = images if isinstance(images, Images) else from_dataset(images)
    batch_size = choose_batch_size(batch_size, images, device)
    if loaders is not None:
        require_integer("loaders", loaders, 0)
    workers = workers if workers is None or isinstance(workers, Workers) else Workers(workers)
    team = None if workers is None else workers.on(device)
    packed = pack(encoder=encoder, images=images) if team else {}
    # Where there are workers, this process computes next to nothing.
    here = "cpu" if team else device
    made, target, facts = make_encoder(encoder, here, provenance or {})
    manifest = prepare(
        made, images, settings, shard_size=shard_size, device=target, provenance=facts
    )
    manifest, accepted = start_or_resume(run, manifest, accept_changes)
    for change in accepted:
        log.warning("%s, which is accepted", change)

    all_shards = list(list_shards(run, manifest))
    shards = _take_share(all_shards, share)
    if not shards:
        log.warning(
            "there is nothing to do in this share: the run has %d shard%s, of up to %d images each",
            len(all_shards),
            "s" * (len(all_shards) > 1),
            manifest["shard_size"],
        )
    todo = [shard for shard in shards if not _is_finished(shard)]
    total, left = (sum(shard.layout.count for shard in some) for some in (shards, todo))
    with show_progress(total, total - left, progress) as report:
        if team is None:
            score_serially(
                made,
                images,
                manifest,
                todo,
                batch_size=batch_size,
                device=target,
                accepted=accepted,
                loaders=choose_loaders(loaders, images, target),
                report=report,
            )
        elif todo:
            assignment = Assignment(
                run=run.absolute(),
                manifest=manifest,
                folder=Path.cwd(),
                provenance=provenance or {},
                accept_changes=accept_changes,
                batch_size=batch_size,
                device=device,
                loaders=loaders,
                threads=team.threads,
                command=this_command(),
                **packed,
            )
            score_with_ray(team, assignment, {s.number: s.layout.count for s in todo}, report)
    if merge and share is None and (todo or not is_merged(run)):
        merge_shards(run)


def _take_share(shards: list[Shard], share: tuple[int, int] | None) -> list[Shard]:
    """Every n-th of all shards, not of those left: others may be at work on theirs meanwhile."""
    if share is None:
        return shards
    number, of = share
    require_integer("the number of shares", of, 1)
    require_integer("the share", number, 1, of, "their number")
    return shards[number - 1 :: of]


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

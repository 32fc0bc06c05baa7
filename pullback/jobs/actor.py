"""What a worker of Ray does: it owns a device, an encoder and images, and scores shards."""

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..archive.configuration import find_differences
from ..archive.manifest import read_manifest
from ..archive.shards import find_shard
from ..metrics import Encoder
from .encoders import EncoderSpec, make_encoder
from .images import Images
from .loading import Reader, choose_loaders, cut
from .preparation import prepare
from .settings import Settings
from .shards import write_shard


@dataclass(frozen=True)
class Assignment:
    """What all workers of a run are told.

    Attributes:
        run: the run folder, which all machines share.
        manifest: what it was made from.
        folder: where relative paths start.
        encoder, images: pickled; an encoder may be an :class:`EncoderSpec`.
        provenance, accept_changes, batch_size, device, loaders: see
            :func:`pullback.score_images`.
        threads: of each worker.
        command: what the user has called.
    """

    run: Path
    manifest: dict[str, Any]
    folder: Path
    encoder: bytes
    images: bytes
    provenance: dict[str, Any]
    accept_changes: Collection[str]
    batch_size: int
    device: str
    loaders: int | None
    threads: int
    command: str


class Worker:
    """Begins once, then scores the shards that it is told."""

    def begin(self, assignment: Assignment) -> None:
        """Make encoder and images, and see that they are those of the run.

        Raises:
            ValueError: something cannot be had on this machine, or is another there.
        """
        try:
            self._begin(assignment)
        except Exception as error:
            kinds = (ValueError, TypeError, OSError)
            kind = "" if isinstance(error, kinds) else f"{type(error).__name__}: "
            raise ValueError(
                f"a worker on {socket.gethostname()} cannot begin: {kind}{error}"
            ) from error

    def _begin(self, assignment: Assignment) -> None:
        os.chdir(assignment.folder)
        torch.set_num_threads(assignment.threads)
        self._assignment = assignment
        self._batch_size = assignment.batch_size
        _require_shared(assignment)
        images: Images = _unpack("the images", assignment.images)
        encoder: Encoder | EncoderSpec = _unpack("the encoder", assignment.encoder)
        self._images = images
        self._encoder, self._device, provenance = make_encoder(
            encoder, assignment.device, assignment.provenance
        )
        own = prepare(
            self._encoder,
            images,
            Settings.of(assignment.manifest),
            shard_size=assignment.manifest["shard_size"],
            device=self._device,
            provenance=provenance,
        )
        differences = find_differences(assignment.manifest, own)
        refused = [
            text for place, text in differences.items() if place not in assignment.accept_changes
        ]
        if refused:
            raise ValueError(f"it would score another run: {'; '.join(refused)}")
        self._accepted = list(differences.values())
        loaders = choose_loaders(assignment.loaders, images, self._device)
        self._reader = Reader(images, loaders, self._device)

    def score(self, number: int) -> list[str]:
        """Score a shard and write its file; what there is to tell the user."""
        assignment = self._assignment
        shard = find_shard(assignment.run, assignment.manifest, number)
        with _noted() as notes:
            self._batch_size = write_shard(
                self._encoder,
                self._images,
                assignment.manifest,
                shard,
                batch_size=self._batch_size,
                device=self._device,
                accepted=self._accepted,
                command=assignment.command,
                batches=self._reader.read(cut(shard.start, shard.stop, self._batch_size)),
            )
        return notes


def _require_shared(assignment: Assignment) -> None:
    try:
        shared = read_manifest(assignment.run) == assignment.manifest
    except FileNotFoundError:
        shared = False
    if not shared:
        raise ValueError(
            f"{assignment.run} is another folder there; a run needs one that all share"
        )


def _unpack(what: str, packed: bytes) -> Any:
    try:
        return pickle.loads(packed)
    except Exception as error:  # it may be anyone's code
        raise ValueError(f"{what} cannot be made: {type(error).__name__}: {error}") from error


@contextmanager
def _noted() -> Iterator[list[str]]:
    """What is logged and warned of meanwhile."""
    notes: list[str] = []
    handler, log = _Notes(notes), logging.getLogger("pullback")
    log.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield notes
        notes += [f"{found.category.__name__}: {found.message}" for found in caught]
    finally:
        log.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.append(record.getMessage())

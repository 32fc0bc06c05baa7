"""A whole run: its shards merged into one archive, and its columns read."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import reading, writing
from .atomic import delete_leftovers
from .columns import COLUMNS
from .layout import Layout
from .manifest import read_manifest
from .origin import Origin, gather
from .shards import Shard, list_shards


def merge(run: str | Path) -> Path:
    """Gather all shards of a finished run into ``archive.h5``, and return its path.

    Raises:
        FileNotFoundError: ``run`` is no run, or shards are missing; the message counts them.
        ValueError: a shard is damaged, or belongs to another run.
    """
    manifest = read_manifest(run)
    shards = list(list_shards(run, manifest))
    missing = [shard.path.name for shard in shards if not shard.path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shards)} shards are missing in {run} (first: {missing[0]}); "
            "run `pullback score` again to finish, then merge"
        )
    archive = Path(run, "archive.h5")
    delete_leftovers(archive.parent)
    origin = gather(reading.origin_of(shard.path) for shard in shards)
    writing.write(archive, Layout.of(manifest), shards, origin)
    return archive


def read(
    run: str | Path, names: str | Iterable[str] = COLUMNS, samples: slice | None = None
) -> dict[str, NDArray]:
    """Columns of a run, from ``archive.h5`` or else from its finished shards, in order.

    Args:
        run: the folder.
        names: those wanted, or one; columns that the run does not hold are left out. ``"sample"``
            is the index of each image in its data set, which tells where shards are missing.
        samples: images by their index in the data set, such as ``slice(7, 8)``, which then is all
            that is read and checked; those in shards yet to come are left out. All by default.

    Raises:
        FileNotFoundError: ``run`` is no run.
        TypeError: ``samples`` is no slice.
        ValueError: a file is damaged, or belongs to another run; or the slice has a step.
    """
    parts = list(scan(run, names, samples))
    present = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in present}


class Verified(NamedTuple):
    """What of a run is there, and whole.

    Attributes:
        finished: shards that are.
        all: shards that the run will have.
        archive: whether ``archive.h5`` is.
    """

    finished: int
    all: int
    archive: bool


def verify(run: str | Path) -> Verified:
    """Hold every file of a run against its manifest, checksums of all numbers included.

    Raises:
        FileNotFoundError: ``run`` is no run.
        ValueError: a file is damaged, or belongs to another run; the message names the first.
    """
    manifest = read_manifest(run)
    shards = list(list_shards(run, manifest))
    finished = [shard for shard in shards if shard.path.exists()]
    archive = Path(run, "archive.h5")
    files = [*finished, *([Shard(archive, Layout.of(manifest))] if archive.exists() else [])]
    for file in files:
        reading.verify(file.path, file.layout)
    return Verified(len(finished), len(shards), archive.exists())


def is_merged(run: str | Path) -> bool:
    """Whether ``archive.h5`` is there, and has the layout that it must have; no values are read."""
    archive = Path(run, "archive.h5")
    try:
        for _ in reading.tables(archive, Layout.of(read_manifest(run)), ()):
            pass
    except (FileNotFoundError, ValueError):
        return False
    return True


def find_failures(run: str | Path) -> dict[str, str]:
    """Why images could not be scored, by their index, as far as the run is finished."""
    return find_origin(run).failures


def find_origin(run: str | Path) -> Origin:
    """By whom and how the numbers of a run were made, as far as it is finished."""
    archive = Path(run, "archive.h5")
    if archive.exists():
        return reading.origin_of(archive)
    files = finished_files(run, read_manifest(run))
    return gather(reading.origin_of(file.path) for file in files)


def scan(
    run: str | Path, names: str | Iterable[str], samples: slice | None = None
) -> Iterator[dict[str, NDArray]]:
    """What :func:`read` returns, some samples at a time, for runs larger than the memory."""
    manifest, names = read_manifest(run), (names,) if isinstance(names, str) else tuple(names)
    wanted = range(manifest["data"]["count"])
    if samples is not None:
        if not isinstance(samples, slice):
            raise TypeError(f"samples must be a slice, such as slice(7, 8), got {samples!r}")
        wanted = wanted[samples]
        if wanted.step != 1:
            raise ValueError(f"samples must be a slice without a step, got {samples}")
    for path, layout in finished_files(run, manifest):
        part = range(max(wanted.start, layout.start), min(wanted.stop, layout.stop))
        if samples is None or part:
            yield from reading.tables(path, layout, names, None if samples is None else part)


def finished_files(run: str | Path, manifest: dict[str, Any]) -> Iterator[Shard]:
    """The files that hold what is scored: ``archive.h5``, or else the finished shards."""
    archive = Path(run, "archive.h5")
    if archive.exists():
        yield Shard(archive, Layout.of(manifest))
        return
    yield from (shard for shard in list_shards(run, manifest) if shard.path.exists())

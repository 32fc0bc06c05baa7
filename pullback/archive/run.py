"""A whole run: its shards merged into one archive, and its columns read."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import reading, writing
from .atomic import delete_leftovers
from .columns import COLUMNS
from .layout import Layout
from .manifest import read_manifest
from .origin import gather
from .shards import list_shards


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
    # Each shard is held against the manifest, and its checksums compared, while it is copied.
    tables = (table for s in shards for table in reading.tables(s.path, s.layout, s.layout.dtypes))
    origin = gather(reading.origin_of(shard.path) for shard in shards)
    writing.write(archive, Layout.of(manifest), tables, origin)
    return archive


def read(run: str | Path, names: Iterable[str] = COLUMNS) -> dict[str, NDArray]:
    """Columns of a run, from ``archive.h5`` or else from its finished shards, in order.

    Args:
        run: the folder.
        names: those wanted; columns that the run does not hold are left out.

    Raises:
        FileNotFoundError: ``run`` is no run.
        ValueError: a file is damaged, or belongs to another run.
    """
    parts = list(scan(run, names))
    present = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in present}


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
    archive = Path(run, "archive.h5")
    if archive.exists():
        return reading.origin_of(archive).failures
    finished = (s.path for s in list_shards(run, read_manifest(run)) if s.path.exists())
    return gather(map(reading.origin_of, finished)).failures


def scan(run: str | Path, names: Iterable[str]) -> Iterator[dict[str, NDArray]]:
    """What :func:`read` returns, some samples at a time, for runs larger than the memory."""
    manifest, archive, names = read_manifest(run), Path(run, "archive.h5"), tuple(names)
    if archive.exists():
        yield from reading.tables(archive, Layout.of(manifest), names)
        return
    for shard in list_shards(run, manifest):
        if shard.path.exists():
            yield from reading.tables(shard.path, shard.layout, names)

"""A whole run: its shards merged into one archive, and its columns read."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import hdf5
from .atomic import delete_leftovers
from .columns import COLUMNS
from .configuration import as_json
from .manifest import read_manifest
from .shards import list_shards, verify_shard


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
    for shard in shards:
        verify_shard(shard, manifest)
    archive = Path(run, "archive.h5")
    delete_leftovers(archive.parent)
    hdf5.write(
        archive,
        manifest["data"]["count"],
        hdf5.read(shards[0].path),
        lambda name: (hdf5.read(shard.path, [name])[name] for shard in shards),
        0,
        as_json(manifest),
    )
    return archive


def read(run: str | Path, names: Iterable[str] = COLUMNS) -> dict[str, NDArray]:
    """Columns of a run, from ``archive.h5`` or else from its finished shards, in order.

    Args:
        run: the folder.
        names: those wanted; columns that the run does not hold are left out.

    Raises:
        FileNotFoundError: ``run`` is no run.
        ValueError: a file is damaged.
    """
    archive = Path(run, "archive.h5")
    if archive.exists():
        return hdf5.read(archive, names)
    finished = [s.path for s in list_shards(run, read_manifest(run)) if s.path.exists()]
    parts = [hdf5.read(path, names) for path in finished]
    present = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in present}

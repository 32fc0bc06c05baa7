"""The files of a run: shards written and verified, merged, and read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import hdf5
from .atomic import delete_leftovers
from .columns import COLUMNS
from .manifest import Shard, as_json, read_manifest, shards


def write(
    path: Path,
    columns: dict[str, NDArray],
    *,
    first_sample: int = 0,
    configuration: dict[str, Any] | None = None,
) -> None:
    """Write the columns to ``path`` so that it is there whole, on disk and verified, or not at all.

    Args:
        path: the file; its folder exists.
        columns: arrays by their names in :data:`COLUMNS`; ``eigenvalues`` is one of them.
        first_sample: index of the first sample in its data set.
        configuration: stored as JSON in the root attribute ``configuration``.
    """
    count = len(columns["eigenvalues"])
    text = as_json(configuration or {})
    hdf5.write(path, count, columns, lambda name: [columns[name]], first_sample, text)


def merge(run: Path) -> Path:
    """Gather all shards of a finished run into ``archive.h5``, and return its path.

    Raises:
        FileNotFoundError: ``run`` is no run, or shards are missing; the message counts them.
        ValueError: a shard is damaged, or belongs to another run.
    """
    manifest = read_manifest(run)
    parts = list(shards(run, manifest))
    missing = [path.name for _, _, path in parts if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(parts)} shards are missing in {run} (first: {missing[0]}); "
            "run `pullback score` again to finish, then merge"
        )
    for part in parts:
        verify_shard(part, manifest)
    files = [path for _, _, path in parts]
    archive = Path(run, "archive.h5")
    delete_leftovers(archive.parent)
    hdf5.write(
        archive,
        manifest["data"]["count"],
        hdf5.read(files[0]),
        lambda name: (hdf5.read(path, [name])[name] for path in files),
        0,
        as_json(manifest),
    )
    return archive


def verify_shard(shard: Shard, manifest: dict[str, Any]) -> None:
    """See that a shard is whole and belongs to the run of the manifest.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    start, stop, path = shard
    with hdf5.opened(path) as file:
        own = bytes(file.attrs.get("configuration", b"")) == as_json(manifest).encode()
        samples = file["sample"][...] if "sample" in file else np.empty(0)
        shapes = {name: file[name].shape for name in COLUMNS if name in file}
    if not own or not np.array_equal(samples, np.arange(start, stop)):
        raise ValueError(f"{path} belongs to another run; delete it and score again")
    hdf5.verify(path, shapes)


def read(run: Path, names: Iterable[str] = COLUMNS) -> dict[str, NDArray]:
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
    finished = [path for _, _, path in shards(run, read_manifest(run)) if path.exists()]
    parts = [hdf5.read(path, names) for path in finished]
    present = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in present}

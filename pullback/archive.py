"""Archives of scores: the files of a run, written whole or not at all, verified, merged, read.

A run is a folder with ``manifest.json``, ``shards/part-000000.h5`` and so on and, after a merge,
``archive.h5``. A shard and the archive have one layout, which xarray opens with
``engine="h5netcdf"``: data sets in the root group along the dimensions ``sample`` and ``rank``.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import hdf5
from .hdf5 import COLUMNS, FORMAT

Shard = tuple[int, int, Path]


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
    text = _as_json(configuration or {})
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
    sweep(archive.parent)
    hdf5.write(
        archive,
        manifest["data"]["count"],
        hdf5.read(files[0]),
        lambda name: (hdf5.read(path, [name])[name] for path in files),
        0,
        _as_json(manifest),
    )
    return archive


def verify_shard(shard: Shard, manifest: dict[str, Any]) -> None:
    """See that a shard is whole and belongs to the run of the manifest.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    start, stop, path = shard
    with hdf5.opened(path) as file:
        own = bytes(file.attrs.get("configuration", b"")) == _as_json(manifest).encode()
        samples = file["sample"][...] if "sample" in file else np.empty(0)
        shapes = {name: file[name].shape for name in COLUMNS if name in file}
    if not own or not np.array_equal(samples, np.arange(start, stop)):
        raise ValueError(f"{path} belongs to another run; delete it and score again")
    hdf5.verify(path, shapes)


def sweep(folder: Path) -> None:
    """Delete what processes that are no more left half-written in a folder."""
    for temporary in folder.glob(".*.tmp"):
        process = temporary.name.split(".")[-2]
        if not (process.isdigit() and _is_alive(int(process))):
            temporary.unlink(missing_ok=True)


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


def shards(run: Path, manifest: dict[str, Any]) -> Iterator[Shard]:
    """First sample, last sample plus one, and file of every shard, finished or not."""
    count, size = manifest["data"]["count"], manifest["shard_size"]
    for number, start in enumerate(range(0, count, size)):
        yield start, min(start + size, count), Path(run, "shards", f"part-{number:06d}.h5")


def read_manifest(run: Path) -> dict[str, Any]:
    """What a run was made from.

    Raises:
        FileNotFoundError: ``run`` has no manifest.
        ValueError: the manifest is damaged.
    """
    path = Path(run, "manifest.json")
    if not path.exists():
        raise FileNotFoundError(f"{run} is no run of `pullback score`: it has no manifest.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    expected = {"format", "encoder", "data", "score", "shard_size", "versions"}
    if not isinstance(manifest, dict) or not expected <= manifest.keys():
        raise ValueError(f"{path} is damaged: it must hold {', '.join(sorted(expected))}")
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = hdf5.temporary_name(path)
    temporary.write_text(text, encoding="utf-8")
    hdf5.move_into_place(temporary, path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _as_json(configuration: dict[str, Any]) -> str:
    return json.dumps(configuration, sort_keys=True)

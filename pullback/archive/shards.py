"""The shards of a run: consecutive samples, one file each, written whole and verified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import hdf5
from .columns import COLUMNS
from .configuration import as_json


class Shard(NamedTuple):
    """First sample, last sample plus one, and file of a shard, whether finished or not."""

    start: int
    stop: int
    path: Path


def list_shards(run: str | Path, manifest: dict[str, Any]) -> Iterator[Shard]:
    """All shards that a run consists of, finished or not, in order."""
    count, size = manifest["data"]["count"], manifest["shard_size"]
    for number, start in enumerate(range(0, count, size)):
        path = Path(run, "shards", f"part-{number:06d}.h5")
        yield Shard(start, min(start + size, count), path)


def write_shard(
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


def verify_shard(shard: Shard, manifest: dict[str, Any]) -> None:
    """See that a shard is whole and belongs to the run of the manifest.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    with hdf5.open_to_read(shard.path) as file:
        own = bytes(file.attrs.get("configuration", b"")) == as_json(manifest).encode()
        samples = file["sample"][...] if "sample" in file else np.empty(0)
        shapes = {name: file[name].shape for name in COLUMNS if name in file}
    if not own or not np.array_equal(samples, np.arange(shard.start, shard.stop)):
        raise ValueError(f"{shard.path} belongs to another run; delete it and score again")
    hdf5.verify(shard.path, shapes)

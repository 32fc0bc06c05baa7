"""HDF5 archives of scores: written whole or not at all, verified, merged, opened.

A run is a folder with ``manifest.json``, ``shards/part-000000.h5`` and so on and, after a merge,
``archive.h5``. A shard and the archive have one layout, which xarray opens with
``engine="h5netcdf"``: data sets in the root group along the dimensions ``sample`` and ``rank``.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT = 1
CHUNK = 512
SQUARED_SLOPE = "latent^2 input^-2"


@dataclass(frozen=True)
class Column:
    """A data set of the archive: its dimensions, units and a line of explanation."""

    dimensions: tuple[str, ...]
    units: str
    long_name: str


_PER_SAMPLE = ("sample",)
_PER_PAIR = ("sample", "rank")

COLUMNS = {
    "eigenvalues": Column(
        _PER_PAIR, SQUARED_SLOPE, "largest eigenvalues of the metric, descending"
    ),
    "residual_norm": Column(_PER_PAIR, SQUARED_SLOPE, "norm of G v - lambda v"),
    "converged": Column(_PER_PAIR, "1", "1 if the residual is within the tolerance, else 0"),
    "spectral_radius": Column(_PER_SAMPLE, SQUARED_SLOPE, "largest eigenvalue"),
    "trace": Column(_PER_SAMPLE, SQUARED_SLOPE, "sum of all eigenvalues"),
    "trace_error": Column(_PER_SAMPLE, SQUARED_SLOPE, "standard error of trace"),
    "entropy": Column(_PER_SAMPLE, "nat", "von Neumann entropy, eigenvalues divided by their sum"),
    "entropy_error": Column(_PER_SAMPLE, "nat", "standard error of entropy"),
    "entropy_none": Column(_PER_SAMPLE, "nat", "entropy -sum(l log l), eigenvalues as they are"),
    "entropy_none_error": Column(_PER_SAMPLE, "nat", "standard error of entropy_none"),
    "entropy_max": Column(_PER_SAMPLE, "nat", "entropy, eigenvalues divided by the largest"),
    "entropy_max_error": Column(_PER_SAMPLE, "nat", "standard error of entropy_max"),
    "effective_rank": Column(_PER_SAMPLE, "1", "exponential of entropy"),
    "anisotropy": Column(_PER_SAMPLE, "1", "largest eigenvalue divided by the sum of all"),
    "log_volume": Column(_PER_SAMPLE, "1", "half the sum of log eigenvalues over the ranks"),
    "label": Column(_PER_SAMPLE, "1", "class label of the data set"),
    "directions": Column((*_PER_PAIR, "input"), "1", "unit eigenvectors, inputs flattened"),
}


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
    count, ranks = columns["eigenvalues"].shape
    sizes = {"sample": count, "rank": ranks}
    if "directions" in columns:
        sizes["input"] = columns["directions"].shape[-1]
    shapes = {name: array.shape for name, array in columns.items()}
    dtypes = {name: array.dtype for name, array in columns.items()}

    def fill(file: h5py.File) -> None:
        _lay_out(file, sizes, dtypes, first_sample, configuration or {})
        for name, array in columns.items():
            file[name][...] = array

    _publish(path, fill, shapes)


def merge(run: Path) -> Path:
    """Gather all shards of a finished run into ``archive.h5``, and return its path.

    Raises:
        FileNotFoundError: ``run`` is no run, or shards are missing; the message counts them.
        ValueError: a shard is damaged.
    """
    manifest = read_manifest(run)
    missing = [path.name for _, _, path in shards(run, manifest) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(list(shards(run, manifest)))} shards are missing in {run} "
            f"(first: {missing[0]}); run `pullback score` again to finish, then merge"
        )
    count = manifest["data"]["count"]
    first = _read(next(shards(run, manifest))[2], COLUMNS)
    sizes = {"sample": count, "rank": first["eigenvalues"].shape[1]}
    if "directions" in first:
        sizes["input"] = first["directions"].shape[-1]

    def fill(file: h5py.File) -> None:
        _lay_out(file, sizes, {name: a.dtype for name, a in first.items()}, 0, manifest)
        for start, stop, path in shards(run, manifest):
            for name, array in _read(path, COLUMNS).items():
                file[name][start:stop] = array

    path = Path(run, "archive.h5")
    _publish(path, fill, {name: (count, *array.shape[1:]) for name, array in first.items()})
    return path


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
        return _read(archive, names)
    finished = [path for _, _, path in shards(run, read_manifest(run)) if path.exists()]
    parts = [_read(path, names) for path in finished]
    present = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in present}


def shards(run: Path, manifest: dict[str, Any]) -> Iterator[tuple[int, int, Path]]:
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
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _move_into_place(temporary, path)


def _lay_out(
    file: h5py.File,
    sizes: dict[str, int],
    dtypes: dict[str, np.dtype],
    first_sample: int,
    configuration: dict[str, Any],
) -> None:
    """Empty data sets with dimension scales, compression, checksums and NaN fill."""
    file.attrs["Conventions"] = "CF-1.11"
    file.attrs["format"] = FORMAT
    file.attrs["configuration"] = json.dumps(configuration, sort_keys=True)
    coordinates = {
        "sample": (first_sample + np.arange(sizes["sample"]), "index of the image in its data set"),
        "rank": (1 + np.arange(sizes["rank"]), "rank of the eigenvalue, the largest being 1"),
    }
    if "input" in sizes:
        coordinates["input"] = (np.arange(sizes["input"]), "index into the flattened image")
    for name, (values, long_name) in coordinates.items():
        scale = file.create_dataset(name, data=values.astype(np.int64))
        scale.make_scale(name)
        scale.attrs.update(units="1", long_name=long_name)
    for name, dtype in dtypes.items():
        column = COLUMNS[name]
        floating = np.issubdtype(dtype, np.floating)
        dataset = file.create_dataset(
            name,
            shape=[sizes[dimension] for dimension in column.dimensions],
            dtype=dtype,
            fillvalue=np.nan if floating else -1,
            chunks=tuple(min(sizes[d], 4096 if d == "input" else CHUNK) for d in column.dimensions),
            compression="gzip",
            shuffle=True,
            fletcher32=True,
        )
        dataset.attrs.update(units=column.units, long_name=column.long_name)
        if floating:
            dataset.attrs["_FillValue"] = np.array([np.nan], dtype)
        for axis, dimension in enumerate(column.dimensions):
            dataset.dims[axis].attach_scale(file[dimension])


def _publish(
    path: Path, fill: Callable[[h5py.File], None], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Write under a temporary name, flush to disk, read everything back, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            fill(file)
        _verify(temporary, shapes)
        _move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _move_into_place(temporary: Path, path: Path) -> None:
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Ask the system to have a file, or a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Read a file back, a chunk at a time: HDF5 compares the checksums."""
    with _opened(path) as file:
        found = {name: file[name].shape for name in COLUMNS if name in file}
        if found != shapes:
            raise ValueError(f"{path} holds {found}, not {shapes}")
        for name, shape in shapes.items():
            for start in range(0, shape[0], CHUNK):
                file[name][start : start + CHUNK]


def _read(path: Path, names: Iterable[str]) -> dict[str, NDArray]:
    with _opened(path) as file:
        return {name: file[name][...] for name in names if name in file}


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}") from error

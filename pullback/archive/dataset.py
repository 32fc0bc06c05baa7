"""A run as an ``xarray.Dataset`` whose columns are read when they are looked at."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import reading
from .columns import COLUMNS
from .configuration import as_json
from .manifest import read_manifest
from .run import finished_files
from .shards import Shard

if TYPE_CHECKING:
    import xarray


def open_run(run: str | Path) -> "xarray.Dataset":
    """A run as a dataset, from ``archive.h5`` or else from its finished shards.

    Nothing but the coordinates is read. Columns are read, and their checksums compared, when they
    are looked at, of a slice only what it needs: ``dataset.eigenvalues[7]`` of a million takes
    milliseconds. Where shards are missing, ``sample`` has gaps. File names are text.

    Args:
        run: the folder.

    Raises:
        ImportError: xarray is missing.
        FileNotFoundError: ``run`` is no run.
        ValueError: the run is damaged. Whoever looks at a column can get this as well.
    """
    try:
        import xarray
        from xarray.core.indexing import LazilyIndexedArray

        from .lazy import LazyColumn
    except ImportError as error:
        raise ImportError(
            f"pb.archive.open needs {error.name}, which is missing: pip install 'pullback[xarray]'"
        ) from error

    manifest = read_manifest(run)
    files = list(finished_files(run, manifest))
    variables: dict[str, Any] = {
        name: xarray.Variable(
            [d for d in COLUMNS[name].dimensions if d != "character"],
            LazilyIndexedArray(LazyColumn(_Column(name, files, manifest))),
            {"long_name": COLUMNS[name].long_name, "units": "1"},
        )
        for name in manifest["columns"]
    }
    if "file" in variables:
        del variables["file"].attrs["units"]
    return xarray.Dataset(variables, _coordinates(files, manifest), _attributes(manifest, files))


class _Column:
    """One column of consecutive or scattered files, one after the other."""

    def __init__(self, name: str, files: list[Shard], manifest: dict[str, Any]) -> None:
        self._name, self._files = name, files
        lengths = [file.layout.count for file in files]
        self._ends = list(accumulate(lengths, initial=0))
        sizes = {**manifest["sizes"], "sample": self._ends[-1]}
        dimensions = [d for d in COLUMNS[name].dimensions if d != "character"]
        self.shape = tuple(sizes[dimension] for dimension in dimensions)
        # As many letters as bytes at most.
        text = np.dtype(f"<U{sizes.get('character', 1)}")
        self.dtype = text if name == "file" else np.dtype(manifest["columns"][name])

    def read(self, key: tuple[Any, ...]) -> NDArray:
        """What NumPy gives for integers and slices, of which the first is of samples."""
        first, others = key[0], key[1:]
        if not isinstance(first, slice):
            place = range(self.shape[0])[first]
            return self._between(place, place + 1, others)[0]
        wanted = range(self.shape[0])[first]
        if not wanted:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *others)]
        low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1]) + 1
        return self._between(low, high, others)[:: abs(wanted.step)][:: np.sign(wanted.step)]

    def _between(self, low: int, high: int, others: tuple[Any, ...]) -> NDArray:
        """Samples by their place, of which a part is kept before the next is read."""
        parts = self._parts(low, high)
        return np.concatenate([self._as_text(part)[(slice(None), *others)] for part in parts])

    def _parts(self, low: int, high: int) -> Iterator[NDArray]:
        starts, ends = self._ends[:-1], self._ends[1:]
        for (path, layout), start, end in zip(self._files, starts, ends, strict=True):
            first, last = (
                layout.start - start + place for place in (max(low, start), min(high, end))
            )
            if first < last:
                for table in reading.tables(path, layout, [self._name], range(first, last)):
                    yield table[self._name]

    def _as_text(self, values: NDArray) -> NDArray:
        if values.dtype.kind != "S":
            return values
        return np.char.decode(values, "utf-8", "replace").astype(self.dtype)


def _coordinates(files: list[Shard], manifest: dict[str, Any]) -> dict[str, NDArray]:
    samples = [np.arange(file.start, file.stop) for file in files]
    sizes = {name: n for name, n in manifest["sizes"].items() if name not in ("character", "rank")}
    return {
        "sample": np.concatenate([np.arange(0), *samples]),
        "rank": np.arange(1, manifest["sizes"]["rank"] + 1),
        **{name: np.arange(n) for name, n in sizes.items()},
    }


def _attributes(manifest: dict[str, Any], files: list[Shard]) -> dict[str, str]:
    """Those of the archive; of shards, which may be many, without how each was made."""
    configuration = {"Conventions": "CF-1.11", "configuration": as_json(manifest)}
    merged = [file.path for file in files if file.path.name == "archive.h5"]
    if merged:
        configuration |= reading.origin_of(merged[0]).attributes(manifest)
    return configuration

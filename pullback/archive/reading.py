"""One HDF5 file of scores: held against what it must hold, then read, a part at a time."""

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from .atomic import require_own_file
from .hdf5 import open_to_read
from .layout import Layout
from .origin import Origin, read_origin

# What netCDF calls the scale of a dimension without coordinates, which is all that it looks at.
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. {:10}"
FILTERS = {"compression": "gzip", "shuffle": True, "fletcher32": True}
_PART_BYTES = 2**25
_SCALE_PART = 2**16
_MOST_ORIGIN = 2**24


def verify(path: Path, layout: Layout) -> None:
    """Hold a file against its layout and read all of it back: HDF5 compares the checksums.

    Raises:
        ValueError: the file is damaged, holds anything else, or belongs to another run.
    """
    for _ in tables(path, layout, layout.dtypes):
        pass


def tables(
    path: Path, layout: Layout, names: Iterable[str], samples: range | None = None
) -> Iterator[dict[str, NDArray]]:
    """Columns of a file, those of the names that it has, some samples at a time.

    Args:
        path: the file.
        layout: what it must hold.
        names: of columns; ``"sample"`` is the index of each image in its data set.
        samples: consecutive ones that the file has, the only ones that are read; all by default.
            What others need, such as their coordinates, is then not looked at.

    Raises:
        ValueError: as for :func:`verify`, of what is read.
    """
    names = [name for name in names if name in layout.dtypes or name == "sample"]
    columns = [name for name in names if name != "sample"]
    require_own_file(path)
    with open_to_read(path) as file:
        own = _text(file, "configuration", len(layout.configuration)) == layout.configuration
        if own:
            datasets = _check(file, layout, samples, columns)
            read_origin(_text(file, "origin", _MOST_ORIGIN))
            wanted = range(layout.start, layout.stop) if samples is None else samples
            step = max(1, _PART_BYTES // max(8, layout.row_bytes(columns)))
            for start in range(wanted.start, wanted.stop, step):
                part = range(start, min(start + step, wanted.stop))
                yield {name: _read_part(datasets, layout, name, part) for name in names}
    if not own:
        raise ValueError(f"{path} belongs to another run")


def origin_of(path: Path) -> Origin:
    """By whom and how the file says that it was made.

    Raises:
        ValueError: the file is damaged.
    """
    require_own_file(path)
    with open_to_read(path) as file:
        return read_origin(_text(file, "origin", _MOST_ORIGIN))


def _text(file: h5py.File, name: str, most: int) -> str:
    """An attribute of the root, if it is a text of at most so many bytes."""
    if name not in file.attrs:
        raise ValueError(f"it lacks the attribute {name!r}")
    attribute = file.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "S" or attribute.dtype.itemsize > most:
        return ""
    return bytes(file.attrs[name]).decode()


def _read_part(
    datasets: dict[str, h5py.Dataset], layout: Layout, name: str, samples: range
) -> NDArray:
    if name == "sample":
        return np.arange(samples.start, samples.stop)
    start, stop = samples.start - layout.start, samples.stop - layout.start
    return _unspell(datasets[name][start:stop])


def _check(
    file: h5py.File, layout: Layout, samples: range | None, columns: Iterable[str]
) -> dict[str, h5py.Dataset]:
    """Names, kinds, types, shapes and storage of all that the file holds; its data sets.

    Of a million samples that takes a second; if few are read, only what these are read from is
    looked at. Each is opened once, which is what most of the time of a small file goes into.
    """
    coordinates = layout.coordinates()
    expected = {*coordinates, *layout.sizes, *layout.dtypes}
    # Not by the list of names, which HDF5 1.14.2 crashes on where a file is damaged.
    if len(file) != len(expected) or not all(name in file for name in expected):
        raise ValueError(_compare_names(file, expected))
    datasets = {name: _dataset(file, name) for name in sorted(expected)}
    for name, (first, end) in coordinates.items():
        part = samples if samples is not None and name == "sample" else range(first, end)
        _check_scale(datasets[name], first, end, part)
    for name, dtype in layout.dtypes.items():
        dataset = datasets[name]
        _check_type(dataset, dtype, layout.shape(name))
        if samples is None:
            _check_storage(dataset, layout.chunks(name))
        elif name in columns:
            rows = samples.start - layout.start, samples.stop - layout.start
            _check_storage(dataset, layout.chunks(name), range(*rows))
    # One data set under two names would be one column given for another.
    if len({dataset.id for dataset in datasets.values()}) < len(expected):
        raise ValueError("one of its data sets has two names")
    return datasets


def _compare_names(file: h5py.File, expected: set[str]) -> str:
    missing = sorted(name for name in expected if name not in file)
    if missing:
        return f"it lacks {', '.join(missing)}"
    other = next(name for name in file if name not in expected)
    return f"it holds {other!r}, which is no part of the run"


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """What has this name, if it is a data set of this very file."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name!r} is a link, not a data set")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name!r} is a {type(dataset).__name__.lower()}, not a data set")
    created = dataset.id.get_create_plist()
    if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
        raise ValueError(f"{name!r} has its values in another file")
    return dataset


def _check_type(dataset: h5py.Dataset, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    name = dataset.name.removeprefix("/")
    if dataset.dtype != dtype or dataset.shape != shape:
        raise ValueError(
            f"{name!r} is {dataset.dtype} of shape {dataset.shape}, and should be {dtype} of "
            f"shape {shape}"
        )


def _check_scale(scale: h5py.Dataset, first: int, end: int, part: range) -> None:
    _check_type(scale, np.dtype(np.int64), (end - first,))
    for start in range(part.start, part.stop, _SCALE_PART):
        stop = min(start + _SCALE_PART, part.stop)
        if not np.array_equal(scale[start - first : stop - first], np.arange(start, stop)):
            raise ValueError(f"{scale.name[1:]!r} does not count from {first} to {end - 1}")


def _check_storage(
    dataset: h5py.Dataset, chunks: tuple[int, ...], rows: range | None = None
) -> None:
    """All chunks are there, each once, with the filters that check them, and of a sensible size.

    With ``rows``, only the chunks that hold these.
    """
    name, found = dataset.name[1:], {name: getattr(dataset, name) for name in FILTERS}
    if dataset.chunks != chunks or dataset.maxshape != dataset.shape or found != FILTERS:
        raise ValueError(f"{name!r} is not stored in chunks with checksums")
    stored = stored_chunks(dataset, chunks, rows)
    # What does not shrink is stored as it is, with a few bytes more.
    most = 1.001 * math.prod(chunks) * dataset.dtype.itemsize + 64
    whole = all(chunk.filter_mask == 0 and chunk.size <= most for chunk in stored)
    count = len(stored)
    if rows is None:
        count = math.prod(-(-n // step) for n, step in zip(dataset.shape, chunks, strict=True))
    places = {chunk.byte_offset for chunk in stored} - {None}
    if not whole or len(places) != count:
        raise ValueError(f"{name!r} is not stored whole")


def stored_chunks(
    dataset: h5py.Dataset, chunks: tuple[int, ...], rows: range | None = None
) -> list[h5py.h5d.StoreInfo]:
    """Of all chunks those that are there; of those that hold some rows each, there or not."""
    if rows is None:
        stored: list[h5py.h5d.StoreInfo] = []
        dataset.id.chunk_iter(stored.append)
        return stored
    first = rows.start - rows.start % chunks[0]
    starts = [range(first, rows.stop, chunks[0])]
    starts += [range(0, n, step) for n, step in zip(dataset.shape[1:], chunks[1:], strict=True)]
    return [dataset.id.get_chunk_info_by_coord(place) for place in itertools.product(*starts)]


def _unspell(array: NDArray) -> NDArray:
    """Characters, ``(n, characters)``, as bytes ``(n,)``; others as they are."""
    return array if array.dtype.kind != "S" else array.view(f"S{array.shape[1]}")[:, 0]

"""One HDF5 file of scores: how columns are laid out, written whole or not, verified, read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from .atomic import move_into_place, temporary_name
from .columns import COLUMNS, FORMAT, Column

# The first format with checksums of its metadata, and the last that every tool reads.
LIBVER = ("v110", "v110")
# What netCDF calls the scale of a dimension without coordinates, which is all that it looks at.
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. {:10}"
# Samples of a column that are compressed together.
CHUNK = 512


def write(
    path: Path,
    count: int,
    template: dict[str, NDArray],
    column: Callable[[str], Iterable[NDArray]],
    first_sample: int,
    configuration: str,
) -> None:
    """Write a file of ``count`` samples, so that it is there whole, flushed and verified, or not.

    Args:
        path: the file; its folder exists.
        count: samples in all.
        template: some samples of every column, by the names in :data:`COLUMNS`.
        column: gives all samples of a column, in consecutive parts.
        first_sample: index of the first sample in its data set.
        configuration: the root attribute of that name.
    """
    template = {name: _spell(array) for name, array in template.items()}
    sizes = {"sample": count, "rank": template["eigenvalues"].shape[1]}
    for name, array in template.items():
        sizes |= dict(zip(COLUMNS[name].dimensions[1:], array.shape[1:], strict=True))
    temporary = temporary_name(path)
    try:
        with h5py.File(temporary, "w", libver=LIBVER) as file:
            file.attrs["format"] = FORMAT
            _set_texts(file, Conventions="CF-1.11", configuration=configuration)
            _make_scales(file, sizes, first_sample)
            for name, array in template.items():
                _fill(_make_column(file, name, array.dtype, sizes), column(name))
        verify(temporary, {name: (count, *array.shape[1:]) for name, array in template.items()})
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def verify(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Read columns of these shapes back, a chunk at a time: HDF5 compares the checksums.

    Raises:
        ValueError: the file is damaged, or its columns have other shapes.
    """
    with open_to_read(path) as file:
        found = {name: file[name].shape for name in COLUMNS if name in file}
        if found != shapes:
            raise ValueError(f"{path} holds {found}, not {shapes}")
        for scale in ("sample", "rank"):
            file[scale][...]
        for name, shape in shapes.items():
            for start in range(0, shape[0], CHUNK):
                file[name][start : start + CHUNK]


def read(path: Path, names: Iterable[str] = COLUMNS) -> dict[str, NDArray]:
    """Columns of a file, those of the names that it has."""
    with open_to_read(path) as file:
        return {name: _unspell(file[name][...]) for name in names if name in file}


@contextmanager
def open_to_read(path: Path) -> Iterator[h5py.File]:
    """The file, for reading; what HDF5 says of a damaged one becomes a ValueError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:  # h5py reports damage in any of these
        raise ValueError(f"{path} is damaged: {error}") from error


def _make_scales(file: h5py.File, sizes: dict[str, int], first_sample: int) -> None:
    coordinates = {
        "sample": (first_sample + np.arange(sizes["sample"]), "index of the image in its data set"),
        "rank": (1 + np.arange(sizes["rank"]), "rank of the eigenvalue, the largest being 1"),
    }
    if "input" in sizes:
        coordinates["input"] = (np.arange(sizes["input"]), "index into the flattened image")
    for name, (values, long_name) in coordinates.items():
        scale = file.create_dataset(name, data=values.astype(np.int64))
        scale.make_scale(name)
        _set_texts(scale, units="1", long_name=long_name)
    if "character" in sizes:
        scale = file.create_dataset("character", (sizes["character"],), ">f4")
        scale.make_scale(NO_VARIABLE.format(sizes["character"]))


def _make_column(
    file: h5py.File, name: str, dtype: np.dtype, sizes: dict[str, int]
) -> h5py.Dataset:
    """An empty column with dimension scales, compression, checksums and NaN fill."""
    column = COLUMNS[name]
    is_text, floating = dtype.kind == "S", dtype.kind == "f"
    dataset = file.create_dataset(
        name,
        shape=[sizes[dimension] for dimension in column.dimensions],
        dtype=dtype,
        fillvalue=np.nan if floating else None if is_text else -1,
        chunks=_chunks(column, sizes),
        compression="gzip",
        shuffle=True,
        fletcher32=True,
    )
    _set_texts(dataset, units=column.units, long_name=column.long_name)
    if is_text:
        _set_texts(dataset, _Encoding="utf-8")
    if floating:
        dataset.attrs["_FillValue"] = np.array([np.nan], dtype)
    for axis, dimension in enumerate(column.dimensions):
        dataset.dims[axis].attach_scale(file[dimension])
    return dataset


def _set_texts(target: h5py.HLObject, **texts: str) -> None:
    """Attributes of fixed length: those of any length are kept where no checksum covers them."""
    for name, text in texts.items():
        raw = text.encode()
        target.attrs.create(name, raw, dtype=h5py.string_dtype("utf-8", len(raw)))


def _chunks(column: Column, sizes: dict[str, int]) -> tuple[int, ...]:
    """Many samples of a small column, few of one with vectors as long as an image."""
    samples = 4 if "input" in column.dimensions else CHUNK
    return tuple(
        min(sizes[dimension], samples if dimension == "sample" else sizes[dimension])
        for dimension in column.dimensions
    )


def _fill(dataset: h5py.Dataset, parts: Iterable[NDArray]) -> None:
    """Write consecutive parts, each chunk once: a chunk written twice is compressed twice."""
    waiting = np.empty((0, *dataset.shape[1:]), dataset.dtype)
    start, step = 0, dataset.chunks[0]
    for part in parts:
        waiting = np.concatenate([waiting, _spell(part)])
        whole = len(waiting) // step * step
        dataset[start : start + whole] = waiting[:whole]
        start, waiting = start + whole, waiting[whole:]
    dataset[start:] = waiting


def _spell(array: NDArray) -> NDArray:
    """Text as an array of characters, ``(n,)`` of n bytes as ``(n, bytes)``; others as they are."""
    return (
        array
        if array.dtype.kind != "S"
        else array.astype(array.dtype).view("S1").reshape(len(array), -1)
    )


def _unspell(array: NDArray) -> NDArray:
    """The inverse of :func:`_spell`."""
    return array if array.dtype.kind != "S" else array.view(f"S{array.shape[1]}")[:, 0]

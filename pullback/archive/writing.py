"""One HDF5 file of scores: how columns are laid out, written whole or not at all."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from .atomic import move_into_place, temporary_name
from .columns import COLUMNS, FORMAT
from .hdf5 import open_to_read, open_to_write
from .layout import Layout
from .origin import Origin
from .reading import FILTERS, NO_VARIABLE, stored_chunks, tables, verify
from .shards import Shard
from .signals import postpone_signals

_COORDINATES = {
    "sample": "index of the image in its data set",
    "rank": "rank of the eigenvalue, the largest being 1",
    "input": "index into the flattened image",
    "latent": "index into the flattened code",
}


Table = dict[str, NDArray]


def write(path: Path, layout: Layout, parts: Iterable[Table | Shard], origin: Origin) -> None:
    """Write a file, so that it is there whole, flushed and verified, or not.

    Args:
        path: the file; its folder exists.
        layout: what it shall hold.
        parts: consecutive samples of all columns: arrays by their names in :data:`COLUMNS`, or a
            shard, which is held against its layout, and its checksums compared.
        origin: by whom and how they were made.

    Raises:
        ValueError: a shard is damaged, or belongs to another run.
    """
    temporary = temporary_name(path)
    try:
        with postpone_signals() as answer, open_to_write(temporary) as file:
            file.attrs["format"] = FORMAT
            _set_texts(file, Conventions="CF-1.11", configuration=layout.configuration)
            _set_texts(file, **origin.attributes(json.loads(layout.configuration)))
            _make_scales(file, layout)
            fillers = {name: _Filler(_make_column(file, name, layout)) for name in layout.dtypes}
            for part in parts:
                for _ in _append(part, fillers):
                    answer()
            for filler in fillers.values():
                filler.finish()
        verify(temporary, layout)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _append(part: Table | Shard, fillers: dict[str, "_Filler"]) -> Iterator[None]:
    """Append samples to all columns; a shard's as they are packed, where their chunks fit."""
    if not isinstance(part, Shard):
        for name, filler in fillers.items():
            filler.append(part[name])
        yield
        return
    layout = part.layout
    fit = all(fillers[name].takes(layout.count, layout.chunks(name)) for name in fillers)
    for table in tables(part.path, layout, layout.dtypes):
        yield from () if fit else _append(table, fillers)
        yield
    if fit:
        with open_to_read(part.path) as file:
            for name, filler in fillers.items():
                filler.copy(file[name])
                yield


class _Filler:
    """Writes consecutive parts of a column, each chunk once: one written twice is packed twice."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._start = 0
        self._waiting = np.empty((0, *dataset.shape[1:]), dataset.dtype)

    def append(self, part: NDArray) -> None:
        waiting = np.concatenate([self._waiting, _spell(part, self._dataset.shape)])
        whole = len(waiting) // self._dataset.chunks[0] * self._dataset.chunks[0]
        self._dataset[self._start : self._start + whole] = waiting[:whole]
        self._start, self._waiting = self._start + whole, waiting[whole:]

    def takes(self, count: int, chunks: tuple[int, ...]) -> bool:
        """Whether so many samples in chunks of this shape can come next, as they are packed."""
        whole = (
            self._start % chunks[0] == len(self._waiting) == 0 and chunks == self._dataset.chunks
        )
        return whole and (count % chunks[0] == 0 or self._start + count == len(self._dataset))

    def copy(self, column: h5py.Dataset) -> None:
        """Append a column of chunks that this one takes; unpacking and packing takes far longer."""
        for chunk in stored_chunks(column, column.chunks):
            mask, packed = column.id.read_direct_chunk(chunk.chunk_offset)
            row, *place = chunk.chunk_offset
            self._dataset.id.write_direct_chunk((self._start + row, *place), packed, mask)
        self._start += len(column)

    def finish(self) -> None:
        self._dataset[self._start :] = self._waiting


def _spell(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Text as an array of characters, ``(n,)`` of bytes as ``(n, characters)``; others as is."""
    if array.dtype.kind != "S":
        return array
    return array.astype(f"S{shape[1]}").view("S1").reshape(len(array), shape[1])


def _make_scales(file: h5py.File, layout: Layout) -> None:
    for name, (first, end) in layout.coordinates().items():
        scale = file.create_dataset(name, data=np.arange(first, end, dtype=np.int64))
        scale.make_scale(name)
        _set_texts(scale, units="1", long_name=_COORDINATES[name])
    if "character" in layout.sizes:
        scale = file.create_dataset("character", (layout.sizes["character"],), ">f4")
        scale.make_scale(NO_VARIABLE.format(layout.sizes["character"]))


def _make_column(file: h5py.File, name: str, layout: Layout) -> h5py.Dataset:
    """An empty column with dimension scales, compression, checksums and NaN fill."""
    column, dtype = COLUMNS[name], layout.dtypes[name]
    dataset = file.create_dataset(
        name,
        shape=layout.shape(name),
        dtype=dtype,
        fillvalue={"f": np.nan, "S": None}.get(dtype.kind, -1),
        chunks=layout.chunks(name),
        **FILTERS,
    )
    _set_texts(dataset, long_name=column.long_name)
    _set_texts(dataset, **({"_Encoding": "utf-8"} if dtype.kind == "S" else {"units": "1"}))
    if dtype.kind == "f":
        dataset.attrs["_FillValue"] = np.array([np.nan], dtype)
    for axis, dimension in enumerate(column.dimensions):
        dataset.dims[axis].attach_scale(file[dimension])
    return dataset


def _set_texts(target: h5py.HLObject, **texts: str) -> None:
    """Attributes of fixed length: those of any length are kept where no checksum covers them."""
    for name, text in texts.items():
        raw = text.encode("utf-8", "backslashreplace")
        target.attrs.create(name, raw, dtype=h5py.string_dtype("utf-8", len(raw)))

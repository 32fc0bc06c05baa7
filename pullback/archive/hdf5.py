"""HDF5 files, opened to be read or written in the one format that a run has."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

# The first format with checksums of its metadata, and the last that every tool reads.
LIBVER = ("v110", "v110")
# What h5py raises for damage.
_DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError)


@contextmanager
def open_to_write(path: Path) -> Iterator[h5py.File]:
    """A new file."""
    with h5py.File(path, "w", libver=LIBVER) as file:
        yield file


@contextmanager
def open_to_read(path: Path) -> Iterator[h5py.File]:
    """The file, for reading; what HDF5 says of a damaged one becomes a ValueError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged: {error}") from error

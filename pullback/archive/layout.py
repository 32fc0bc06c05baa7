"""What a file of a run must hold, by the manifest alone: columns, their types and their sizes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .columns import COLUMNS
from .configuration import as_json

# Samples of a column that are compressed together; fewer, where they take more bytes than this.
CHUNK_SAMPLES, CHUNK_BYTES = 512, 2**19


@dataclass(frozen=True)
class Layout:
    """Columns of consecutive samples, and the run that they belong to.

    Attributes:
        start, stop: the first sample, and the last plus one.
        sizes: lengths of the dimensions besides ``sample``.
        dtypes: of the columns, by name.
        configuration: the manifest, as the file has it in an attribute.
    """

    start: int
    stop: int
    sizes: dict[str, int]
    dtypes: dict[str, np.dtype]
    configuration: str

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> "Layout":
        """That of a whole run."""
        dtypes = {name: np.dtype(dtype) for name, dtype in manifest["columns"].items()}
        text = as_json(manifest)
        return cls(0, manifest["data"]["count"], dict(manifest["sizes"]), dtypes, text)

    def select(self, start: int, stop: int) -> "Layout":
        """That of some of the samples."""
        return replace(self, start=start, stop=stop)

    @property
    def count(self) -> int:
        """How many samples."""
        return self.stop - self.start

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a column."""
        sizes = {"sample": self.count, **self.sizes}
        return tuple(sizes[dimension] for dimension in COLUMNS[name].dimensions)

    def chunks(self, name: str) -> tuple[int, ...]:
        """Many samples of a small column, few of one with vectors as long as an image."""
        shape, room, chunks = self.shape(name), CHUNK_BYTES // self.dtypes[name].itemsize, []
        for size in reversed(shape[1:]):
            chunks.append(min(size, max(1, room)))
            room //= chunks[-1]
        return (min(shape[0], CHUNK_SAMPLES, max(1, room)), *reversed(chunks))

    def row_bytes(self, names: Iterable[str]) -> int:
        """What one sample of these columns takes in memory."""
        one = self.select(0, 1)
        return sum(int(np.prod(one.shape(n))) * self.dtypes[n].itemsize for n in names)

    def coordinates(self) -> dict[str, tuple[int, int]]:
        """First and last value, plus one, of each dimension that has a coordinate."""
        starts = {"sample": self.start, "rank": 1}
        sizes = {"sample": self.count, **self.sizes}
        return {
            name: (starts.get(name, 0), starts.get(name, 0) + size)
            for name, size in sizes.items()
            if name != "character"
        }

"""A column of a run as xarray reads it: where it is indexed. Imported where xarray is there."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing


class Column(Protocol):
    """What reads parts of a column, by integers and slices."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, key: tuple[Any, ...]) -> NDArray:
        """What NumPy gives for integers and slices."""
        ...


class LazyColumn(BackendArray):
    """A column that is read where it is indexed; other processes can be sent it, unread."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self.shape, self.dtype = column.shape, column.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """What xarray asks for, of any kind of index."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._column.read
        )

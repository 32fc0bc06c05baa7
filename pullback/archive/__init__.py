"""Archives of scores: the files of a run, written whole or not at all, verified, merged, read.

A run is a folder with ``manifest.json``, ``shards/part-000000.h5`` and so on and, after a merge,
``archive.h5``. A shard and the archive have one layout, which xarray opens with
``engine="h5netcdf"``: data sets in the root group along the dimensions ``sample`` and ``rank``.
"""

from .columns import COLUMNS, Column
from .comparison import Comparison, Difference, compare
from .dataset import open_run as open  # noqa: A004 (`pb.archive.open`)
from .manifest import read_manifest
from .run import merge, read, verify

__all__ = [
    "COLUMNS",
    "Column",
    "Comparison",
    "Difference",
    "compare",
    "merge",
    "open",
    "read",
    "read_manifest",
    "verify",
]

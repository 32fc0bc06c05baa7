"""Archives of scores: the files of a run, written whole or not at all, verified, merged, read.

A run is a folder with ``manifest.json``, ``shards/part-000000.h5`` and so on and, after a merge,
``archive.h5``. A shard and the archive have one layout, which xarray opens with
``engine="h5netcdf"``: data sets in the root group along the dimensions ``sample`` and ``rank``.
"""

from .atomic import delete_leftovers, write_text
from .columns import COLUMNS, FORMAT
from .manifest import Shard, read_manifest, shards
from .run import merge, read, verify_shard, write

__all__ = [
    "COLUMNS",
    "FORMAT",
    "Shard",
    "delete_leftovers",
    "merge",
    "read",
    "read_manifest",
    "shards",
    "verify_shard",
    "write",
    "write_text",
]

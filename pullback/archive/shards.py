"""The shards of a run: consecutive samples, one file each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .layout import Layout


class Shard(NamedTuple):
    """A shard of a run, whether finished or not: its file, and what that must hold."""

    path: Path
    layout: Layout

    @property
    def start(self) -> int:
        """The first sample."""
        return self.layout.start

    @property
    def stop(self) -> int:
        """The last sample plus one."""
        return self.layout.stop


def list_shards(run: str | Path, manifest: dict[str, Any]) -> Iterator[Shard]:
    """All shards that a run consists of, finished or not, in order."""
    if Path(run, "shards").is_symlink():
        raise ValueError(f"{Path(run, 'shards')} is a symbolic link; a run's shards lie in it")
    whole, size = Layout.of(manifest), manifest["shard_size"]
    for number, start in enumerate(range(0, whole.stop, size)):
        path = Path(run, "shards", f"part-{number:06d}.h5")
        yield Shard(path, whole.select(start, min(start + size, whole.stop)))

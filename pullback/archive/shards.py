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
    def number(self) -> int:
        """Its place among all."""
        return int(self.path.stem.removeprefix("part-"))

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
    whole = Layout.of(manifest)
    for number in range(-(-whole.count // manifest["shard_size"])):
        yield _select(run, whole, manifest["shard_size"], number)


def find_shard(run: str | Path, manifest: dict[str, Any], number: int) -> Shard:
    """One of them, counted from 0."""
    return _select(run, Layout.of(manifest), manifest["shard_size"], number)


def _select(run: str | Path, whole: Layout, size: int, number: int) -> Shard:
    path = Path(run, "shards", f"part-{number:06d}.h5")
    return Shard(path, whole.select(number * size, min((number + 1) * size, whole.stop)))

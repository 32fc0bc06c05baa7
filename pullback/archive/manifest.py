"""What a run was made from, and which shards it consists of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .columns import FORMAT

Shard = tuple[int, int, Path]


def read_manifest(run: Path) -> dict[str, Any]:
    """What a run was made from.

    Raises:
        FileNotFoundError: ``run`` has no manifest.
        ValueError: the manifest is damaged.
    """
    path = Path(run, "manifest.json")
    if not path.exists():
        raise FileNotFoundError(f"{run} is no run of `pullback score`: it has no manifest.json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    expected = {"format", "encoder", "data", "score", "shard_size", "versions"}
    if not isinstance(manifest, dict) or not expected <= manifest.keys():
        raise ValueError(f"{path} is damaged: it must hold {', '.join(sorted(expected))}")
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def shards(run: Path, manifest: dict[str, Any]) -> Iterator[Shard]:
    """First sample, last sample plus one, and file of every shard, finished or not."""
    count, size = manifest["data"]["count"], manifest["shard_size"]
    for number, start in enumerate(range(0, count, size)):
        yield start, min(start + size, count), Path(run, "shards", f"part-{number:06d}.h5")


def as_json(configuration: dict[str, Any]) -> str:
    """A configuration as it is stored in files."""
    return json.dumps(configuration, sort_keys=True)

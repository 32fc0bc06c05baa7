"""The manifest of a run: what the run was made from, written once and never changed."""

import json
import math
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..arguments import require_choice
from .atomic import create_text, delete_leftovers, name_in_errors, require_own_file
from .columns import COLUMNS, FORMAT, OPTIONAL, choose_columns
from .configuration import find_differences

# What it must hold at least, by type: it is read from disk, and not taken for granted.
_SCHEMA: dict[str, type | dict[str, type]] = {
    "format": int,
    "encoder": {"weights": str, "outputs": int},
    "data": {"name": str, "count": int, "event_shape": list},
    "score": {"k": int, "seed": int, "dtype": str, "method": str},
    "shard_size": int,
    "sizes": {"rank": int},
    "columns": {"eigenvalues": str},
    "versions": {},
}
# What may change while the numbers are the same; only the user knows.
ACCEPTABLE = (
    *("encoder.factory", "encoder.source_sha256", "versions.pullback", "versions.torch"),
    *("data.name", "data.modified"),
)
_MOST_BYTES, _MOST_SHARDS, _MOST_PER_IMAGE = 2**24, 10**6, 2**30


def read_manifest(run: str | Path) -> dict[str, Any]:
    """What a run was made from.

    Raises:
        FileNotFoundError: ``run`` has no manifest.
        ValueError: the manifest is damaged, or of another version.
    """
    path = Path(run, "manifest.json")
    try:
        require_own_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{run} is no run of `pullback score`: it has no manifest.json"
        raise FileNotFoundError(message) from error
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is damaged: it is larger than {_MOST_BYTES} bytes")
    with name_in_errors(path):
        written = path.read_bytes()
    try:
        manifest = json.loads(written.decode())
        check_manifest(manifest)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return manifest


def check_manifest(manifest: Any) -> None:
    """Refuse what no run can be made or read from.

    Raises:
        ValueError: says what is missing, of another type, or too large.
    """
    if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
        found = reprlib.repr(manifest["format"])
        raise ValueError(f"it has format {found}; this version reads {FORMAT}")
    _require_types("", manifest, _SCHEMA)
    count, size = manifest["data"]["count"], manifest["shard_size"]
    if min(count, size) < 1 or count > _MOST_SHARDS * size:
        raise ValueError(
            f"{count} images in shards of {size} are not between 1 and {_MOST_SHARDS} shards"
        )
    seed = manifest["score"]["seed"]
    _require(0 <= seed < 2**63, "score.seed", seed)
    for length in manifest["data"]["event_shape"]:
        _require(type(length) is int and length > 0, "data.event_shape", length)
    _check_columns(manifest["columns"], manifest["sizes"], manifest["score"])


def _check_columns(
    columns: dict[str, Any], sizes: dict[str, Any], settings: dict[str, Any]
) -> None:
    _require(settings["dtype"] in ("float32", "float64"), "score.dtype", settings["dtype"])
    wanted = choose_columns(settings["dtype"], [name for name in OPTIONAL if name in columns])
    if columns != wanted:
        raise ValueError(f"columns must be {wanted}")
    used = {d for name in columns for d in COLUMNS[name].dimensions} - {"sample"}
    if sizes.keys() != used:
        raise ValueError(f"sizes must be of {', '.join(sorted(used))}")
    for name, size in sizes.items():
        _require(type(size) is int and size > 0, f"sizes.{name}", size)
    _require(sizes["rank"] == settings["k"], "sizes.rank", sizes["rank"])
    for name in columns:
        lengths = [sizes[d] for d in COLUMNS[name].dimensions[1:]]
        if 8 * math.prod(lengths) > _MOST_PER_IMAGE:
            shape = "×".join(map(str, lengths))
            raise ValueError(f"{shape} numbers of {name} for each image are too many for a file")


def _require_types(place: str, value: Any, schema: type | dict[str, Any]) -> None:
    """A dictionary with values of these types at least, in ``value``."""
    if not isinstance(schema, dict):
        _require(type(value) is schema, place, value)
        return
    if not isinstance(value, dict) or not value.keys() >= schema.keys():
        what = f"{place} must" if place else "it must"
        raise ValueError(f"{what} hold {', '.join(sorted(schema)) or 'a dictionary'}")
    for key, inside in schema.items():
        _require_types(f"{place}.{key}" if place else key, value[key], inside)


def _require(right: bool, place: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{place} cannot be {reprlib.repr(value)}")


def start_or_resume(
    run: Path, manifest: dict[str, Any], accepted: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Make the folder of a run with this manifest, or see that it holds this very run.

    What is there is not written again, so that a finished run may lie on a disk to read from.

    Args:
        run: the folder.
        manifest: what the run is to be made from.
        accepted: places in the manifest where another value is accepted, of :data:`ACCEPTABLE`.

    Returns:
        the run's own manifest, and what differs from it in the places accepted.

    Raises:
        FileExistsError: it holds another run; the message says what differs.
        ValueError: no run can be made of this manifest, or a place cannot be accepted.
    """
    check_manifest(manifest)
    for place in accepted:
        require_choice("accept_change", place, ACCEPTABLE)
    path, shards = Path(run, "manifest.json"), Path(run, "shards")
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        create_text(path, json.dumps(manifest, indent=2) + "\n")
    # Another process may have been first, with other settings.
    held = read_manifest(run)
    differences = find_differences(held, manifest)
    refused = {place: text for place, text in differences.items() if place not in accepted}
    if refused:
        raise FileExistsError(
            f"{run} holds another run: {'; '.join(refused.values())}; {_way_on(refused)}"
        )
    if not shards.exists():
        shards.mkdir(exist_ok=True)
    for folder in (run, shards):
        delete_leftovers(folder)
    return held, list(differences.values())


def _way_on(refused: Collection[str]) -> str:
    if set(refused) <= set(ACCEPTABLE):
        return f"to go on all the same, give --accept-change {' '.join(refused)}"
    return "give another folder, or repeat that run's settings to resume it"


def refuse_foreign_folder(run: Path) -> None:
    """Refuse what is neither a run, nor empty, nor absent.

    Raises:
        FileExistsError: the path is a file, or a folder that holds other things.
    """
    if run.exists() and not run.is_dir():
        raise FileExistsError(f"{run} is a file; give a folder for the run")
    if not run.is_dir() or Path(run, "manifest.json").exists():
        return
    # A manifest that was never finished does not count.
    if any(not path.name.startswith(".manifest.json.") for path in run.iterdir()):
        raise FileExistsError(f"{run} is not empty and holds no run; give another folder")

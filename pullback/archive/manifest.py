"""The manifest of a run: what the run was made from, written once and never changed."""

import json
from pathlib import Path
from typing import Any

from .atomic import create_text, delete_leftovers
from .columns import FORMAT
from .configuration import list_differences

PARTS = {"format", "encoder", "data", "score", "shard_size", "versions", "sizes", "columns"}


def read_manifest(run: str | Path) -> dict[str, Any]:
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
    if not isinstance(manifest, dict) or not {"format", "data"} <= manifest.keys():
        raise ValueError(f"{path} is damaged: it must hold {', '.join(sorted(PARTS))}")
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    if not manifest.keys() >= PARTS:
        raise ValueError(f"{path} is damaged: it must hold {', '.join(sorted(PARTS))}")
    return manifest


def start_or_resume(run: Path, manifest: dict[str, Any]) -> None:
    """Make the folder of a run with this manifest, or see that it holds this very run.

    What is there is not written again, so that a finished run may lie on a disk to read from.

    Raises:
        FileExistsError: it holds another run; the message says what differs.
    """
    path, shards = Path(run, "manifest.json"), Path(run, "shards")
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        create_text(path, json.dumps(manifest, indent=2) + "\n")
    # Another process may have been first, with other settings.
    differences = list_differences(read_manifest(run), manifest)
    if differences:
        raise FileExistsError(
            f"{run} holds another run: {'; '.join(differences)}; give another folder, or "
            "repeat that run's settings to resume it"
        )
    if not shards.exists():
        shards.mkdir(exist_ok=True)
    for folder in (run, shards):
        delete_leftovers(folder)


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

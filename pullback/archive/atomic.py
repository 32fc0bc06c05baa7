"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = temporary_name(path)
    temporary.write_text(text, encoding="utf-8")
    move_into_place(temporary, path)


def temporary_name(path: Path) -> Path:
    """Where this process writes a file before it moves it into place."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, with file and name on disk."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def delete_leftovers(folder: Path) -> None:
    """Delete what processes that are no more left half-written in a folder."""
    for temporary in folder.glob(".*.tmp"):
        process = temporary.name.split(".")[-2]
        if not (process.isdigit() and _is_alive(int(process))):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Ask the system to have a file, or a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

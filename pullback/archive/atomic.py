"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
import socket
import stat
import time
from pathlib import Path

# Seconds after which nobody is still writing a temporary file.
_WEEK = 7 * 24 * 3600.0


def require_own_file(path: Path) -> None:
    """Refuse what is no file of its own: a link to elsewhere, a folder, a pipe that may never end.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is something else.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise ValueError(f"{path} is {what}; the files of a run are files in its folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    temporary = temporary_name(path)
    try:
        _write(temporary, text)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_text(path: Path, text: str) -> bool:
    """Write a text file where there is none, whole or not at all; whether there was none.

    Of several processes that do so at once, one succeeds.
    """
    temporary = temporary_name(path)
    try:
        _write(temporary, text)
        _flush(temporary)
        # Unlike a file that is moved, a link does not replace what has come meanwhile.
        os.link(temporary, path)
        _flush(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def temporary_name(path: Path) -> Path:
    """Where this process writes a file before it moves it into place: a name of its own."""
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())
    return path.with_name(f".{path.name}.{host[:64]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, with file and name on disk."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def delete_leftovers(folder: Path) -> None:
    """Delete what was left half-written in a folder more than a week ago.

    Whether another process is still writing what is younger cannot be known: it may run on another
    machine, or where it cannot be seen.
    """
    for temporary in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # somebody else's, on a disk to read from, or gone
            if time.time() - temporary.lstat().st_mtime > _WEEK:
                temporary.unlink()


def _write(path: Path, text: str) -> None:
    """A text file; what the system says of a full disk does not name it by itself.

    Raises:
        OSError: what the system says, with the name of the file.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _flush(path: Path) -> None:
    """Ask the system to have a file, or a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are there whole or not at all."""

import contextlib
import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds after which nobody is still writing a temporary file.
_WEEK = 7 * 24 * 3600.0
# What disks say of what they do not have: hard links (FAT, many that lie on a network), or a way to
# wait for a folder's list of names.
_UNSUPPORTED = (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


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
        _link(temporary, path)
        _flush_names(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name if nobody has it.

    Unlike a file that is moved, a link does not replace what has come meanwhile. Where the disk has
    no links, the file is moved: of two processes that begin in the same instant, the files of one
    are then refused as those of another run.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if path.exists():
            raise FileExistsError from error
        temporary.replace(path)


def temporary_name(path: Path) -> Path:
    """Where this process writes a file before it moves it into place: a name of its own."""
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())
    return path.with_name(f".{path.name}.{host[:64]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, with file and name on disk."""
    _flush(temporary)
    temporary.replace(path)
    _flush_names(path.parent)


def delete_leftovers(folder: Path) -> None:
    """Delete what was left half-written in a folder more than a week ago.

    Whether another process is still writing what is younger cannot be known: it may run on another
    machine, or where it cannot be seen.
    """
    for temporary in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # somebody else's, on a disk to read from, or gone
            if time.time() - temporary.lstat().st_mtime > _WEEK:
                temporary.unlink()


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """What the system says of reading or writing does not name the file by itself.

    Raises:
        OSError: what the system says, with the name of the file.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, text: str) -> None:
    with name_in_errors(path):
        path.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Ask the system to have a file, or a folder's list of names, on disk."""
    with name_in_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flush_names(folder: Path) -> None:
    """Ask for the folder's list of names, on disks that can."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise

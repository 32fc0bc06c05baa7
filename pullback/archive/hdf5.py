"""HDF5 files by way of Python's own reads and writes, so that the system's errors are told as such.

Left to itself, HDF5 reports a lock or a missing permission as damage, takes locks that some network
disks do not have, and crashes while closing a file on a full disk.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

# The first format with checksums of its metadata, and the last that every tool reads.
LIBVER = ("v110", "v110")
# What h5py raises for damage.
_DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError, OverflowError)


@contextmanager
def open_to_write(path: Path) -> Iterator[h5py.File]:
    """A new file.

    Raises:
        OSError: what the system says: no space, no permission, and so on.
    """
    with _Disk(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as disk:
        try:
            with h5py.File(disk, "w", libver=LIBVER) as file:
                yield file
        except Exception as error:
            if not disk.failure:
                raise
            _forget_frames(error)
        disk.tell_failure()


@contextmanager
def open_to_read(path: Path) -> Iterator[h5py.File]:
    """The file, for reading, whether or not somebody has a lock on it.

    Raises:
        OSError: what the system says: no permission, an error of the disk, and so on.
        ValueError: what HDF5 says of a damaged file; or it is no file but a folder, a pipe, ….
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe could wait for ever
        raise ValueError(f"{path} is no regular file")
    with _Disk(path, os.O_RDONLY) as disk:
        try:
            with h5py.File(disk, "r") as file:
                yield file
        except _DAMAGE as error:
            _forget_frames(error)
            disk.tell_failure()
            raise ValueError(f"{path} is damaged: {error}") from error


def _forget_frames(error: Exception) -> None:
    """Those of h5py hold what HDF5 would free after the end of Python, and crash the process."""
    error.__traceback__ = None


class _Disk:
    """A file as HDF5 sees it: it never fails, but keeps the first error of the system."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._descriptor = os.open(path, flags, 0o666)
        self._place = 0
        self.failure: tuple[int | None, str | None, str] | None = None

    def __enter__(self) -> "_Disk":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def tell_failure(self) -> None:
        """Raise what the system has said, if it has."""
        if self.failure:
            raise OSError(*self.failure)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, count: int) -> bytes:
        buffer = bytearray(count)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """All of the buffer; zeros where the file has ended, or cannot be read."""
        waiting = memoryview(buffer).cast("B")
        while len(waiting):
            try:
                count = os.preadv(self._descriptor, [waiting], self._place)
            except OSError as error:
                self._keep(error)
                count = 0
            if count == 0:
                waiting[:] = bytes(len(waiting))
                count = len(waiting)
            self._place, waiting = self._place + count, waiting[count:]
        return len(buffer)

    def write(self, buffer: bytes | memoryview) -> int:
        waiting = memoryview(buffer).cast("B")
        while len(waiting) and not self.failure:
            try:
                count = os.pwrite(self._descriptor, waiting, self._place)
            except OSError as error:
                self._keep(error)
                break
            self._place, waiting = self._place + count, waiting[count:]
        return len(buffer)

    def truncate(self, size: int) -> int:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._keep(error)
        return size

    def flush(self) -> None:
        """Nothing waits here."""

    def _keep(self, error: OSError) -> None:
        # Not the error itself: its frames, too, hold memory of HDF5.
        self.failure = self.failure or (error.errno, error.strerror, str(self._path))

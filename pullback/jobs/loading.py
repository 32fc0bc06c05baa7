"""Images read while others are scored, by processes of their own."""

import math
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..archive.signals import postpone_signals
from ..arguments import require_integer
from .images import BadImageError, Images

_MOST_LOADERS = 8
Range = tuple[int, int]


class Batch(NamedTuple):
    """Consecutive images as they were read.

    Attributes:
        stop: index of the last plus one.
        parts: finite images with the index of the first; those that are skipped are their errors.
        columns: see :meth:`Images.describe`.
    """

    stop: int
    parts: list[tuple[int, Tensor | BadImageError]]
    columns: dict[str, NDArray]


def read_batch(images: Images, start: int, stop: int) -> Batch:
    """Read some images here and now.

    Raises:
        ValueError: see :attr:`Images.read_stored`.
    """
    parts = [
        (first, part if isinstance(part, BadImageError) else _as_tensor(part))
        for first, part in images.read_parts(start, stop)
    ]
    return Batch(stop, parts, images.describe(start, stop))  # labels may come with the images


def _as_tensor(part: NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(part))


def cut(start: int, stop: int, size: int) -> list[Range]:
    """The batches of some images."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def usable_cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not everywhere
        return os.cpu_count() or 1


def choose_batch_size(batch_size: int | None, images: Images, device: str) -> int:
    """The number that is wanted, or as many images as make a product efficient.

    Small ones take half as long each, on a CPU, where a batch holds 2¹⁹ numbers.
    """
    if batch_size is not None:
        return require_integer("batch_size", batch_size, 1)
    numbers = 2**19 if device.startswith("cpu") else 2**26
    return min(512, max(32, numbers // math.prod(images.event_shape)))


def choose_loaders(loaders: int | None, images: Images, device: torch.device) -> int:
    """How many processes read, where the user has not said so.

    A GPU would wait while files are decoded. A CPU has no core to spare, and a data set of the
    user's own may not bear to be copied.
    """
    if loaders is not None:
        return loaders
    if device.type == "cpu" or images.names is None:
        return 0
    return min(_MOST_LOADERS, usable_cores())


_ENDED = "a process that reads images has ended, perhaps for want of memory: {}"


@contextmanager
def reading(images: Images, loaders: int, device: torch.device) -> Iterator["Reader"]:
    """A reader, whose processes end with the block.

    Raises:
        RuntimeError: one of them has ended before.
    """
    reader = Reader(images, loaders, device)
    try:
        yield reader
    except RuntimeError as error:
        # Raised by a handler of PyTorch for the signal that a child has ended, so anywhere.
        if not tells_of_an_end(error):
            raise
        raise RuntimeError(_ENDED.format(error)) from error
    finally:
        with postpone_signals():
            reader.close()


class Reader:
    """Reads images a batch at a time.

    Args:
        images: the data set.
        loaders: processes that read ahead, and are kept from one series of batches to the next; 0
            for none, so that a batch is read when it is asked for.
        device: where the images go. What is read ahead is put where a GPU can copy it from while it
            computes.
    """

    def __init__(
        self, images: Images, loaders: int = 0, device: torch.device | None = None
    ) -> None:
        self._images = images
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._ranges: list[Range] = []
        self._iterator: Any = None
        self._loader: DataLoader[Batch] | None = None
        if loaders:
            with _as_many_as_wanted():
                self._loader = DataLoader(
                    _Batches(images),
                    batch_size=None,
                    sampler=self._ranges,
                    num_workers=loaders,
                    collate_fn=_as_it_is,
                    pin_memory=self._gpu is not None,
                    worker_init_fn=_stay_quiet,
                    generator=torch.Generator(),  # else it draws from the one of all
                    persistent_workers=True,
                )

    def read(self, ranges: Iterable[Range]) -> Iterator[Batch]:
        """Batches in this order.

        Raises:
            TypeError: the images cannot be sent to another process.
            ValueError: see :attr:`Images.read_stored`.
        """
        if self._loader is None:
            for start, stop in ranges:
                yield read_batch(self._images, start, stop)
            return
        self._ranges[:] = ranges
        try:
            # A thread of PyTorch pins what has been read, for the device that is current now. Seeds
            # are drawn by a generator on the host, whatever device tensors are made on by default.
            gpu = nullcontext() if self._gpu is None else torch.cuda.device(self._gpu)
            with gpu, torch.device("cpu"), _as_many_as_wanted():
                self._iterator = iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"the images cannot be sent to the processes that read them: {error}; without "
                "loaders, they are read in this one"
            ) from error
        for _ in self._ranges:
            try:
                batch = next(self._iterator)
            except (EOFError, ConnectionError) as error:
                raise RuntimeError(_ENDED.format("a batch was on its way")) from error
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def close(self) -> None:
        """End the processes."""
        iterator, self._iterator, self._loader = self._iterator, None, None
        if iterator is None:
            return
        try:
            # PyTorch does so when nobody refers to it any more; an error on its way up does.
            iterator._shutdown_workers()
        except RuntimeError as error:
            if not tells_of_an_end(error):
                raise


@contextmanager
def _as_many_as_wanted() -> Iterator[None]:
    """PyTorch warns of more processes than there are cores, but the user has said how many."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def tells_of_an_end(error: Exception) -> bool:
    """Whether PyTorch's handler has raised it, because a process that reads has ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


class _Batches(Dataset[Any]):
    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, place: Range) -> Batch | Exception:
        try:
            return read_batch(self._images, *place)
        except Exception as error:  # PyTorch would make its text a page
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _stay_quiet(_: int) -> None:
    """In a process that reads: it is ended by the one that computes, which tells the user, too.

    Ctrl-C reaches every process of a terminal. Threads of Python's own would print that nobody
    takes what they offer any more.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.excepthook = lambda *_: None

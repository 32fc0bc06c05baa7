"""Settings of PyTorch under which products would be those of another function, put aside.

They belong to the process, and several threads may compute at the same time: the first to come
changes them, the last to go restores them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

_backends: Any = torch.backends
# By type of device, whose float32 settings there are; those that others inherit come first.
PLACES: dict[str, tuple[Any, ...]] = {
    "cpu": (_backends, _backends.mkldnn.conv, _backends.mkldnn.matmul, _backends.mkldnn.rnn),
    "cuda": (_backends.cudnn, _backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul),
}
_FULL = ("ieee", "none")


class OlderSetting(NamedTuple):
    """One of before there was ``fp32_precision``; where the two disagree, it cannot be read."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    full: Any


_OLDER = (
    OlderSetting(
        lambda: _backends.cudnn.allow_tf32,
        lambda value: setattr(_backends.cudnn, "allow_tf32", value),
        False,
    ),
    OlderSetting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
)


class SharedContext:
    """A context that threads are in together: the first opens it, the last closes it."""

    def __init__(self, open_context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._open, self._count = open_context, 0
        self._lock, self._opened = threading.Lock(), ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._count == 0:
                self._opened.enter_context(self._open())
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._opened.close()


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and matrix products in full float32 on every device, whatever the settings.

    cuDNN computes convolutions in TF32 unless told, with an error of 1e-3; users allow more of the
    kind, or autocast, to make training faster. Krylov methods would find eigenpairs of something
    else.
    """
    if _INSIDE.get():
        yield
        return
    token = _INSIDE.set(True)
    try:
        with _RAISED_SETTINGS, ExitStack() as stack:
            for device_type in filter(torch.amp.is_autocast_available, PLACES):
                stack.enter_context(torch.autocast(device_type, enabled=False))
            yield
    finally:
        _INSIDE.reset(token)


@contextmanager
def _raise_settings() -> Iterator[None]:
    """Full precision in the older settings as well: a map may read them, as cuDNN's flags do."""
    before = [(place, place.fp32_precision) for places in PLACES.values() for place in places]
    lowered = _find_lowered()
    try:
        for older, _ in lowered:
            older.write(older.full)
        for place, _ in before:
            if place.fp32_precision not in _FULL:
                place.fp32_precision = "ieee"
        yield
    finally:
        for older, setting in lowered:
            older.write(setting)
        for place, setting in before:
            if place.fp32_precision != setting:
                place.fp32_precision = setting


def _find_lowered() -> list[tuple[OlderSetting, Any]]:
    """The older settings that allow less than full precision, and what they are."""
    lowered = []
    for older in _OLDER:
        with suppress(RuntimeError):  # the user's newer settings contradict it
            setting = older.read()
            if setting != older.full:
                lowered.append((older, setting))
    return lowered


_RAISED_SETTINGS = SharedContext(_raise_settings)
_INSIDE: ContextVar[bool] = ContextVar("inside", default=False)

# A forked process has none of OpenMP's threads, and its first product would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

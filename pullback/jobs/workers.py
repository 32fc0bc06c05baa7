"""Workers: how many, where, and what each of them takes."""

import math
import socket
from dataclasses import dataclass

import torch

from ..arguments import require_integer, require_positive
from .loading import usable_cores

_SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True)
class Workers:
    """Processes that score shards side by side; Ray starts them, here or on other machines.

    Attributes:
        count: how many.
        address: of a running Ray to join, ``"auto"`` for that of this machine; by default one is
            started here for the time of the run.
        threads: of each. By default the cores of this machine are shared out; 1 where Ray is
            joined.
        gpus: of each: 0.5 for two on one. By default 1 on ``"cuda"``, otherwise 0.
    """

    count: int
    address: str | None = None
    threads: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        require_integer("workers", self.count, 1)
        if self.threads is not None:
            require_integer("threads", self.threads, 1)
        if self.gpus is not None:
            require_positive("gpus", self.gpus)
            if self.gpus > 1 and self.gpus != int(self.gpus):
                raise ValueError(f"gpus={self.gpus} must be a whole number, or less than 1")

    def on(self, device: str) -> "Team":
        """With all defaults decided, for workers that compute on a device.

        Raises:
            ConnectionError: there is no Ray to join.
            ValueError: no worker can have that device.
        """
        kind = _kind_of(device)
        if kind == "cpu" and self.gpus is not None:
            raise ValueError(f"gpus={self.gpus} are for workers on a GPU, and the device is 'cpu'")
        gpus = self.gpus or (1.0 if kind == "cuda" else 0.0)
        if self.address is not None:
            _require_reachable(self.address)
            return Team(self.count, self.address, self.threads or 1, gpus)
        if gpus:
            _require_room(self.count, gpus, torch.cuda.device_count())
        threads = self.threads or max(1, usable_cores() // self.count)
        return Team(self.count, None, threads, gpus)


@dataclass(frozen=True)
class Team:
    """:class:`Workers` with all defaults decided."""

    count: int
    address: str | None
    threads: int
    gpus: float


def _kind_of(device: str) -> str:
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}") from error
    if index is not None:
        raise ValueError(f"device {device!r} must be {kind!r} for workers: Ray says which")
    return kind


def _require_room(count: int, gpus: float, there: int) -> None:
    fitting = there * math.floor(1 / gpus) if gpus < 1 else there // gpus
    if fitting < count:
        raise ValueError(f"{count} workers with {gpus:g} GPUs each are too many: {there} are here")


def _require_reachable(address: str) -> None:
    """Refuse an address where nobody answers: Ray would try again and again, for hours."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise ValueError(f"the address of a Ray is HOST:PORT or auto, got {address!r}")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise ConnectionError(f"there is no Ray at {address}: {error}") from error

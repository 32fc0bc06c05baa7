"""By whom and how the numbers of a file were made: commands, versions, devices, dates, failures."""

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import h5py
import numpy as np
import torch

from ..version import __version__

# Failures that a file names, and letters of each reason, which may be anyone's; how many there
# are, its column `failed` says.
_MOST_FAILURES, _MOST_LETTERS = 1000, 1000


@dataclass(frozen=True)
class Origin:
    """What is not part of the numbers, and may differ from shard to shard.

    Attributes:
        makers: what made them: command, versions, device, threads, when; in how many shards.
        data_sha256: of the images as they were read; of a merged file, of its shards' in order.
        failures: why images could not be scored, by their index.
    """

    makers: list[dict[str, Any]] = field(default_factory=list)
    data_sha256: str = ""
    failures: dict[str, str] = field(default_factory=dict)

    def attributes(self, manifest: dict[str, Any]) -> dict[str, str]:
        """Of the root of a file, in the words of the CF conventions and as JSON."""
        encoder = manifest["encoder"].get("factory", "an encoder")
        return {
            "title": f"Robustness scores of {manifest['data']['name']} under {encoder}",
            "history": "\n".join(f"{m.get('last')}: {m.get('command')}" for m in self.makers),
            "source": f"pullback {__version__}",
            "origin": json.dumps(vars(self) | {"failures": self._some_failures()}),
        }

    def _some_failures(self) -> dict[str, str]:
        some = islice(self.failures.items(), _MOST_FAILURES)
        return {
            i: text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
            for i, text in some
        }


def read_origin(text: str) -> Origin:
    """What :meth:`Origin.attributes` has written.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
        origin = Origin(**found)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("its attribute 'origin' is damaged") from error
    types = {"makers": list, "data_sha256": str, "failures": dict}
    right = all(isinstance(found[name], kind) for name, kind in types.items() if name in found)
    if not right or not all(isinstance(maker, dict) for maker in origin.makers):
        raise ValueError("its attribute 'origin' is damaged")
    return origin


def describe_maker(
    device: torch.device, accepted: list[str], command: str | None = None
) -> dict[str, Any]:
    """This process, as the maker of a shard.

    Args:
        device: what it computes on.
        accepted: what differs from the manifest, where the user has accepted that.
        command: what the user has called; that of this process by default.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "command": command or this_command(),
        "versions": {
            "pullback": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "h5py": h5py.__version__,
            "hdf5": h5py.version.hdf5_version,
            "python": platform.python_version(),
        },
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "accepted": accepted,
        "first": now,
        "last": now,
        "shards": 1,
    }


def this_command() -> str:
    """The command line of this process."""
    return shlex.join(sys.orig_argv)


def gather(origins: Iterable[Origin]) -> Origin:
    """That of a merged file: makers that differ in time alone become one."""
    makers: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    sha = hashlib.sha256()
    for origin in origins:
        sha.update(origin.data_sha256.encode())
        failures |= origin.failures
        for maker in origin.makers:
            _add(makers, maker)
    return Origin(list(makers.values()), sha.hexdigest(), failures)


def _add(makers: dict[str, dict[str, Any]], maker: dict[str, Any]) -> None:
    """Times in ISO 8601 are compared as text."""
    varying = ("first", "last", "shards")
    key = json.dumps({k: v for k, v in maker.items() if k not in varying}, sort_keys=True)
    known = makers.setdefault(key, {**maker, "shards": 0})
    known["first"] = min(str(known.get("first")), str(maker.get("first")))
    known["last"] = max(str(known.get("last")), str(maker.get("last")))
    known["shards"] += 1

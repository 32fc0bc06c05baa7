"""All archives of a data set, which is what the report is made from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import displacements, mixup, records
from .displacements import Displacements
from .mixup import Match
from .records import Record

NAMES = ("beta", "distance", "mixup", "combined")
OPTIMALITY = "optimality"


@dataclass(frozen=True)
class Archives:
    """What the studies left in a folder; None where one was not run.

    Attributes:
        folder: where they are; its name is what the report calls the data set.
        beta, distance, mixup, combined: records by the names of the studies.
        optimality: what that study measured, and with which configuration.
    """

    folder: Path
    beta: Record | None = None
    distance: Record | None = None
    mixup: Record | None = None
    combined: Record | None = None
    optimality: tuple[Displacements, dict[str, Any]] | None = None

    @cached_property
    def same_beta(self) -> list[Match]:
        """VAEs with mixup beside those without of the same β; none if either was not measured."""
        return mixup.same_beta(self.mixup, self.beta) if self.mixup and self.beta else []

    @cached_property
    def matches(self) -> list[Match]:
        """The same at the nearest error of reconstruction."""
        return mixup.matches(self.mixup, self.beta) if self.mixup and self.beta else []


def find(root: Path) -> list[Archives]:
    """The archives in each folder of ``root``, those of the data sets by name.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is damaged.
    """
    folders = sorted({path.parent for path in root.glob("*/*.h5")})
    found = [archives for archives in map(_open, folders) if any(list(vars(archives).values())[1:])]
    if not found:
        wanted = ", ".join(f"{name}.h5" for name in (*NAMES, OPTIMALITY))
        raise FileNotFoundError(f"no folder in {root} holds an archive ({wanted})")
    return found


def _open(folder: Path) -> Archives:
    paths = {name: folder / f"{name}.h5" for name in NAMES}
    one = folder / f"{OPTIMALITY}.h5"
    return Archives(
        folder,
        **{name: records.read(path) for name, path in paths.items() if path.exists()},
        optimality=displacements.read(one) if one.exists() else None,
    )

"""All archives of a data set, which is what the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.recipe import MIXUP_FORMS

from . import displacements, mixup, passes, records, seeds
from .displacements import Displacements
from .mixup import Match
from .passes import Costs
from .records import Record
from .seeds import Trainings

NAMES = ("beta", "distance", "mixup", "combined")
OPTIMALITY, PASSES = "optimality", "passes"
SEEDS = {form: seeds.file_stem(form) for form in MIXUP_FORMS}


@dataclass(frozen=True)
class Archives:
    """What the studies left in a folder; None where one was not run.

    Attributes:
        folder: where they are; its name is what the report calls the data set.
        beta, distance, mixup, combined: records by the names of the studies.
        optimality: what that study measured, and with which configuration.
        passes: what that study measured.
        trainings: several of the same β, by the form of the mixup penalty.
    """

    folder: Path
    beta: Record | None = None
    distance: Record | None = None
    mixup: Record | None = None
    combined: Record | None = None
    optimality: tuple[Displacements, dict[str, Any]] | None = None
    passes: Costs | None = None
    trainings: Mapping[str, Trainings] = field(default_factory=dict)

    @property
    def variance(self) -> float | None:
        """Of a pixel over the images, mean over pixels; None if no archive holds it."""
        records = (self.mixup, self.beta, self.distance, self.combined)
        known = [one.pixel_variance for one in records if one is not None]
        known += [float(one.pixel_variance.mean()) for one in self.trainings.values()]
        return next((value for value in known if value is not None), None)

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
        wanted = ", ".join(f"{name}.h5" for name in (*NAMES, OPTIMALITY, PASSES, *SEEDS.values()))
        raise FileNotFoundError(f"no folder in {root} holds an archive ({wanted})")
    return found


def _open(folder: Path) -> Archives:
    paths = {name: folder / f"{name}.h5" for name in NAMES}
    one, costs = folder / f"{OPTIMALITY}.h5", folder / f"{PASSES}.h5"
    several = {form: folder / f"{stem}.h5" for form, stem in SEEDS.items()}
    return Archives(
        folder,
        **{name: records.read(path) for name, path in paths.items() if path.exists()},
        optimality=displacements.read(one) if one.exists() else None,
        passes=passes.read(costs) if costs.exists() else None,
        trainings={form: seeds.read(path) for form, path in several.items() if path.exists()},
    )

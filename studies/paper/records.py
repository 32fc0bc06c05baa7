"""Measurements of several VAEs in one archive, which is all that a figure is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .. import named_arrays
from ..named_arrays import Variable
from .measurement import COORDINATES, MEASURED, Effort, Step, coordinates, measure
from .vaes import Vaes, name

_VAES = {
    "vae": Variable(("vae",), "1", "index of the VAE"),
    "beta": Variable(("vae",), "1", "weight of the Kullback-Leibler divergence in training"),
    "mixup": Variable(("vae",), "1", "weight of the mixup penalty in training"),
}
_ONE = COORDINATES | MEASURED
LAYOUT = (
    COORDINATES
    | _VAES
    | {
        key: Variable(("vae", *variable.dimensions), variable.units, variable.long_name)
        for key, variable in MEASURED.items()
    }
)
Subject = tuple[float, float]


@dataclass(frozen=True)
class Record:
    """An archive in memory: arrays by the names of ``LAYOUT``, and its configuration."""

    arrays: dict[str, NDArray]
    configuration: dict[str, Any]

    def __getitem__(self, key: str) -> NDArray:
        return self.radius if key == "spectral_radius" else self.arrays[key]

    @property
    def radius(self) -> NDArray:
        """``(vae, sample)``, the spectral radius ρ."""
        return self.arrays["eigenvalues"][..., 0]

    def steps(self, power: float, clipped: bool = True) -> NDArray[np.intp]:
        """Indices of the steps δ·λᵖ·η, ascending in δ."""
        same = (self["power"] == power) & (self["clipped"] == clipped)
        return np.flatnonzero(same)

    def attack_error(self, step: Step) -> NDArray:
        """``(vae, sample)``, the error after one of the marked steps."""
        marked = self["marked"]
        same = (self["power"][marked] == step.power) & np.isclose(self["delta"][marked], step.delta)
        return self["attack_error"][..., np.flatnonzero(same)[0]]

    def select(self, chosen: NDArray | Sequence[int]) -> "Record":
        """The same for some of the VAEs."""
        keys = _VAES | MEASURED
        some = {key: array[chosen] if key in keys else array for key, array in self.arrays.items()}
        return Record(some, self.configuration)


def collect(
    path: Path, vaes: Vaes, subjects: Sequence[Subject], effort: Effort, *, combined: bool = False
) -> Record:
    """The archive at ``path``, measured first as far as it is not there yet.

    Every VAE's part is kept in a folder ``parts`` as soon as it is measured: the same call goes on
    after an interruption, and other calls with the same settings share the parts.

    Args:
        path: the archive.
        vaes: trains what is missing, and holds out the images.
        subjects: pairs of β and the weight of mixup.
        effort: how many images and which steps.
        combined: see :func:`measure`.

    Raises:
        FileExistsError: the archive was measured with other settings; says what differs.
    """
    configuration = {
        **vaes.configuration,
        **effort.configuration,
        "metric": "combined" if combined else "expected",
    }
    whole = {**configuration, "vaes": [list(subject) for subject in subjects]}
    if not named_arrays.holds(path, whole):
        parts = []
        for subject in tqdm(subjects, unit="VAE", desc=path.stem):
            part = vaes.out / "parts" / f"{'combined-' * combined}{name(*subject)}.h5"
            if not named_arrays.holds(part, configuration):
                part.parent.mkdir(parents=True, exist_ok=True)
                arrays = _measured(vaes, subject, effort, combined=combined)
                named_arrays.write(part, _ONE, arrays, configuration)
            parts.append(named_arrays.read(part, _ONE)[0])
        named_arrays.write(path, LAYOUT, _together(parts, subjects), whole)
    return read(path)


def read(path: Path) -> Record:
    """The archive at ``path``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    return Record(*named_arrays.read(path, LAYOUT))


def _measured(vaes: Vaes, subject: Subject, effort: Effort, *, combined: bool) -> dict[str, Any]:
    vae, x = vaes.get(*subject), vaes.held_out(effort.images)
    measured = measure(vae, x, effort, combined=combined, seed=vaes.seed)
    return coordinates(len(x), effort) | measured


def _together(parts: Sequence[dict[str, Any]], subjects: Sequence[Subject]) -> dict[str, Any]:
    betas, weights = np.array(subjects, dtype=float).T
    return {
        **{key: parts[0][key] for key in COORDINATES},
        "vae": np.arange(len(parts)),
        "beta": betas,
        "mixup": weights,
        **{key: np.stack([part[key] for part in parts]) for key in MEASURED},
    }

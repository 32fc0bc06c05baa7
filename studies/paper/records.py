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
from .vaes import Subject, Vaes

_VAES = {
    "vae": Variable(("vae",), "index of the VAE"),
    "beta": Variable(("vae",), "weight of the Kullback-Leibler divergence in training"),
    "mixup": Variable(("vae",), "weight of the mixup penalty in training"),
    "seed": Variable(("vae",), "seed of the training"),
}
_ONE = COORDINATES | MEASURED
LAYOUT = (
    COORDINATES
    | _VAES
    | {
        key: Variable(("vae", *variable.dimensions), variable.long_name)
        for key, variable in MEASURED.items()
    }
)
# What there is of every VAE.
OF_VAES = frozenset(_VAES | MEASURED)


@dataclass(frozen=True)
class Record:
    """An archive in memory: arrays by the names of ``LAYOUT``, and its configuration."""

    arrays: dict[str, NDArray]
    configuration: dict[str, Any]

    def __getitem__(self, key: str) -> NDArray:
        if key == "spectral_radius":
            return self.radius
        if key == "seed" and key not in self.arrays:  # made when every VAE had the same one
            return np.full(len(self["beta"]), self.configuration["seed"])
        return self.arrays[key]

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

    @property
    def pixel_variance(self) -> float | None:
        """Variance of a pixel over the images, mean over pixels; None in older archives."""
        known = self.arrays.get("pixel_variance")
        return None if known is None else float(np.mean(known))

    @property
    def mixup_form(self) -> str:
        """Of the penalty, for the VAEs that have one: text or code."""
        vaes = self.configuration.get("vaes", [])
        return "code" if any("code" in subject for subject in vaes) else "text"

    def select(self, chosen: NDArray | Sequence[int]) -> "Record":
        """The same for some of the VAEs: indices, or a mask."""
        some = {key: array[chosen] if key in OF_VAES else array for key, array in self._items()}
        return Record(some, self.configuration)

    def of_one_seed(self) -> "Record":
        """The VAEs of the first seed alone, so that each β is there once."""
        return self.select(self["seed"] == self["seed"].min())

    def join(self, other: "Record") -> "Record":
        """The VAEs of both; the images and steps have to be the same.

        Raises:
            ValueError: they are not.
        """
        for key in ("sample", "delta", "power", "clipped", "marked"):
            if not np.array_equal(self[key], other[key]):
                raise ValueError(f"{key} differs in the two archives; measure both again")
        theirs = dict(other._items())
        arrays = {
            key: np.concatenate([array, theirs[key]]) if key in OF_VAES else array
            for key, array in self._items()
            if key in theirs
        }
        return Record(arrays, self.configuration)

    def _items(self) -> list[tuple[str, NDArray]]:
        return list((self.arrays | {"seed": self["seed"]}).items())


def collect(
    path: Path, vaes: Vaes, subjects: Sequence[Subject], effort: Effort, *, combined: bool = False
) -> Record:
    """The archive at ``path``, measured first as far as it is not there yet.

    Args:
        path: the archive.
        vaes: trains what is missing, and holds out the images.
        subjects: which VAEs.
        effort: how many images and which steps.
        combined: see :func:`measure`.

    Raises:
        FileExistsError: the archive was measured with other settings; says what differs.
    """
    configuration = _configuration(vaes, effort, combined=combined)
    whole = {**configuration, "vaes": [subject.listed() for subject in subjects]}
    if not named_arrays.holds(path, whole):
        prefix = "combined-" if combined else ""
        parts = [
            part(vaes, subject, effort, prefix, combined=combined)
            for subject in tqdm(subjects, unit="VAE", desc=path.stem)
        ]
        named_arrays.write(path, LAYOUT, _together(parts, subjects, vaes.seed), whole)
    return read(path)


def part(
    vaes: Vaes, subject: Subject, effort: Effort, prefix: str = "", *, combined: bool = False
) -> dict[str, Any]:
    """What is measured of one VAE, kept in a folder ``parts`` as soon as it is there.

    So an interrupted study goes on, and other studies with the same settings share the parts.
    """
    configuration = _configuration(vaes, effort, combined=combined)
    path = vaes.out / "parts" / f"{prefix}{subject.name}.h5"
    if named_arrays.holds(path, configuration):
        arrays, _ = named_arrays.read(path, _ONE, may_lack=_ONE)
        if arrays.keys() >= _ONE.keys():  # else it is measured again
            return arrays
    path.parent.mkdir(parents=True, exist_ok=True)
    vae, x = vaes.get(subject), vaes.held_out(effort.images)
    measured = measure(vae, x, effort, combined=combined, seed=vaes.seed)
    arrays = coordinates(len(x), effort) | measured
    named_arrays.write(path, _ONE, arrays, configuration)
    return arrays


def _configuration(vaes: Vaes, effort: Effort, *, combined: bool) -> dict[str, Any]:
    metric = "combined" if combined else "expected"
    return {**vaes.configuration, **effort.configuration, "metric": metric}


def read(path: Path) -> Record:
    """The archive at ``path``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    return Record(*named_arrays.read(path, LAYOUT, may_lack=("seed", "pixel_variance")))


def _together(
    parts: Sequence[dict[str, Any]], subjects: Sequence[Subject], seed: int
) -> dict[str, Any]:
    return {
        **{key: parts[0][key] for key in COORDINATES},
        "vae": np.arange(len(parts)),
        "beta": np.array([subject.beta for subject in subjects], dtype=float),
        "mixup": np.array([subject.mixup for subject in subjects], dtype=float),
        "seed": np.array([seed if one.seed is None else one.seed for one in subjects]),
        **{key: np.stack([part[key] for part in parts]) for key in MEASURED},
    }

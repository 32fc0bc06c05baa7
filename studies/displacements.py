"""How far attacks of several lengths moved latent codes: the record, and its HDF5 file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pullback.hdf5 import move_into_place, opened, temporary_name

TEXT = h5py.string_dtype()  # of any length: xarray reads these as text, and others as bytes
# Dimensions, units and long name of each data set of the file; four are coordinates.
LAYOUT: dict[str, tuple[tuple[str, ...], str, str]] = {
    "clipping": (("clipping",), "1", "whether perturbed images are clipped to [0, 1]"),
    "attack": (("attack",), "1", "how the step was found"),
    "eps": (("eps",), "input", "bound on the Euclidean norm of the step, before clipping"),
    "sample": (("sample",), "1", "index of the image in the held-out part of its data set"),
    "displacement": (
        ("clipping", "attack", "eps", "sample"),
        "latent",
        "Euclidean distance between the means of the perturbed and the original image",
    ),
    "eigenvalue": (("sample",), "latent^2 input^-2", "largest eigenvalue of the expected metric"),
    "n_products": (
        ("clipping", "attack", "eps"),
        "1",
        "passes through the encoder per image, a gradient counting as two",
    ),
}


@dataclass(frozen=True)
class Displacements:
    """What a sweep over the norm of the step measured.

    Attributes:
        clipping, attack: names of the settings and the attacks.
        eps: ``(E,)``, ascending.
        sample: ``(n,)``, which of the held-out images were attacked.
        displacement: ``(clipping, attack, E, n)``, ‖μ(x_c) − μ(x)‖₂.
        eigenvalue: ``(n,)``, λ₁ of the expected metric at each image.
        n_products: ``(clipping, attack, E)``, passes that finding a step took.
    """

    clipping: tuple[str, ...]
    attack: tuple[str, ...]
    eps: NDArray[np.float64]
    sample: NDArray[np.int64]
    displacement: NDArray[np.float64]
    eigenvalue: NDArray[np.float64]
    n_products: NDArray[np.int64]

    def relative(self) -> NDArray[np.float64]:
        """Displacements over √λ₁·eps, the most that is possible to first order."""
        return self.displacement / (np.sqrt(self.eigenvalue) * self.eps[:, None])

    def ratio(self, of: str, to: Sequence[str]) -> NDArray[np.float64]:
        """``(clipping, E, n)``, an attack's displacement over the largest of the others'."""
        rivals = [self.attack.index(name) for name in to]
        best = self.displacement[:, rivals].max(axis=1)
        return self.displacement[:, self.attack.index(of)] / best


def write(path: Path, found: Displacements, configuration: dict[str, Any]) -> None:
    """Write the file, so that it is there whole or not at all; xarray opens it."""
    temporary = temporary_name(path)
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["Conventions"] = "CF-1.11"
            file.attrs["configuration"] = json.dumps(configuration)
            for name, (dimensions, units, long_name) in LAYOUT.items():
                values = getattr(found, name)
                dtype = TEXT if isinstance(values, tuple) else None
                data = file.create_dataset(name, data=np.array(values, dtype))
                data.attrs.update(units=units, long_name=long_name)
                if dimensions == (name,):
                    data.make_scale(name)
                    continue
                for axis, dimension in enumerate(dimensions):
                    data.dims[axis].attach_scale(file[dimension])
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Displacements, dict[str, Any]]:
    """What a file holds, and the configuration that it was measured with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path} to draw from; run without redraw first")
    with opened(path) as file:
        columns = {name: file[name][...] for name in LAYOUT}
        configuration = json.loads(file.attrs["configuration"])
    for name in ("clipping", "attack"):
        columns[name] = tuple(value.decode() for value in columns[name])
    return Displacements(**columns), configuration

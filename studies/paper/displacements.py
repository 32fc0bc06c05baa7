"""How far attacks of several lengths moved latent codes: the record, and its HDF5 file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import named_arrays
from ..named_arrays import Variable

LAYOUT = {
    "clipping": Variable(("clipping",), "whether perturbed images are clipped to [0, 1]"),
    "attack": Variable(("attack",), "how the step was found"),
    "eps": Variable(("eps",), "bound on the Euclidean norm of the step, before clipping"),
    "sample": Variable(("sample",), "index of the image in the held-out part of its data set"),
    "displacement": Variable(
        ("clipping", "attack", "eps", "sample"),
        "Euclidean distance between the means of the perturbed and the original image",
    ),
    "eigenvalue": Variable(("sample",), "largest eigenvalue of the expected metric"),
    "n_products": Variable(
        ("clipping", "attack", "eps"),
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
    named_arrays.write(path, LAYOUT, vars(found), configuration)


def read(path: Path) -> tuple[Displacements, dict[str, Any]]:
    """What a file holds, and the configuration that it was measured with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    arrays, configuration = named_arrays.read(path, LAYOUT)
    return Displacements(**arrays), configuration

"""What a report is drawn from: the scores of a run, in a memory that does not grow with its k."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..archive.manifest import read_manifest
from ..archive.origin import Origin
from ..archive.run import find_origin, scan
from ..archive.summary import DOUBTFUL, Doubts

# One number for each image. What a standard error is of comes before it.
SCORES = (
    *("spectral_radius", "entropy", "entropy_error", "trace", "trace_error", "effective_rank"),
    *("failed", "sample", "label"),
)
_MOST_SPECTRA = 100_000


@dataclass(frozen=True)
class Contents:
    """What a run holds.

    Attributes:
        manifest: what it was made from.
        origin: by whom and how.
        scores: columns of :data:`SCORES` as far as the run has them; ``radius_error``, the norm of
            G v − λ v of the largest eigenvalue, which bounds its error; and ``converged``, how many
            pairs of each image are.
        spectra: ``(images, k)``, those of all images that were scored or of every n-th.
        doubts: what is to be doubted, a sentence each.
    """

    manifest: dict[str, Any]
    origin: Origin
    scores: dict[str, NDArray]
    spectra: NDArray
    doubts: list[str]

    @classmethod
    def of(cls, run: Path) -> "Contents":
        """That of a run, as far as it is finished.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: nothing is scored yet, or a file is damaged.
        """
        manifest = read_manifest(run)
        step = -(-manifest["data"]["count"] // _MOST_SPECTRA)
        doubts, parts, spectra = Doubts(), [], []
        for table in scan(run, {*SCORES, *DOUBTFUL, "residual_norm"}):
            doubts.add(table)
            scored = table["eigenvalues"][table["failed"] == 0]
            # Copies, since a view would keep all that it is taken from.
            spectra.append(scored[::step].copy())
            part = {name: table[name] for name in SCORES if name in table}
            part["radius_error"] = table["residual_norm"][:, 0].copy()
            part["converged"] = table["converged"].sum(axis=1, dtype=np.int32)
            parts.append(part)
        if not parts:
            raise ValueError(f"{run} has no finished shard yet; run `pullback score` first")
        names = list(parts[0])
        scores = {name: np.concatenate([part.pop(name) for part in parts]) for name in names}
        return cls(manifest, find_origin(run), scores, np.concatenate(spectra), doubts.lines())

    @property
    def count(self) -> int:
        """How many images there are so far, those that failed included."""
        return len(self.scores["sample"])

    def order(self) -> NDArray[np.intp]:
        """Places of the images that were scored, the least robust (largest ρ) first."""
        scored = np.flatnonzero(~np.isnan(self.scores["spectral_radius"]))
        radius = self.scores["spectral_radius"][scored]
        return scored[np.argsort(-radius, kind="stable")]

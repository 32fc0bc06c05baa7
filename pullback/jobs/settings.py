"""What decides the numbers of a run, beside encoder and images."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..arguments import require_choice, require_integer, require_positive
from ..eigen import METHODS


@dataclass(frozen=True)
class Settings:
    """All that decides the numbers of a run, beside encoder and images.

    Attributes:
        k: eigenpairs per image.
        seed: of the Krylov starts and probes.
        directions: whether the eigenvectors are stored too.
        method: see :func:`pullback.score`; ``"nystrom"`` learns its sketch anew in every shard, so
            that a shard does not depend on those before it.
        tol, entropy_tol: see :func:`pullback.score`.
        latents: whether mean and standard deviation of the codes are stored too; None for where a
            code has at most 1024 numbers.
    """

    k: int = 5
    seed: int = 0
    directions: bool = False
    method: str = "auto"
    tol: float = 1e-4
    latents: bool | None = None
    entropy_tol: float = 1e-3

    def __post_init__(self) -> None:
        require_choice("method", self.method, ("auto", *METHODS))
        kept = {
            "seed": require_integer("seed", self.seed, 0, 2**63 - 1),
            "directions": _require_flag("directions", self.directions),
            "tol": require_positive("tol", self.tol),
            "latents": None if self.latents is None else _require_flag("latents", self.latents),
            "entropy_tol": require_positive("entropy_tol", self.entropy_tol),
        }
        for name, value in kept.items():  # of Python's own types, which a manifest can hold
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> "Settings":
        """Those of a run."""
        return cls(**{field.name: manifest["score"][field.name] for field in fields(cls)})


def _require_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)

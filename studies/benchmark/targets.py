"""What the library aims at in cost and memory, and what came of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .comparison import Row
from .scaling import Memory, Parts

SCORE, SCORE_IF_POSSIBLE, PRODUCT = 24, 20, 1.3  # forward-equivalents
VALUES, ENTROPY = 1e-4, 2e-3  # errors; the entropy's is two standard errors
TIMES_FASTER = {"the authors' way": 14, "scipy svds, arpack": 12, "dense eigh of G": 1000}
OWN_SHARE = 0.1
BEYOND_FORWARD = 2 * 2**30


@dataclass(frozen=True)
class Target:
    """An aim and its measured figure; None where it was not measured."""

    name: str
    limit: str
    measured: str | None
    met: bool | None


def targets(rows: Sequence[Row], parts: Parts, needed: Memory) -> list[Target]:
    """All of them, from what was measured."""
    costs = {row.name: row.mean for row in rows if row.mean is not None}
    score, share, beyond = costs["score"], parts.own_share, needed.beyond_forward
    ours = next(row for row in rows if row.name == "score")
    limit = f"≤ {SCORE} FE ({SCORE_IF_POSSIBLE} if possible)"
    return [
        Target("complete score", limit, f"{score:.1f} FE", score <= SCORE),
        _accurate("its five leading eigenvalues, relatively", VALUES, ours.values),
        _accurate("its entropy, in nats", ENTROPY, ours.entropy),
        *(_faster(name, least, costs) for name, least in TIMES_FASTER.items()),
        *(
            Target(name, f"≤ {PRODUCT} FE", f"{cost:.2f} FE", cost <= PRODUCT)
            for name, cost in (("J v, one column", parts.jvp), ("Jᵀ u, one column", parts.vjp))
        ),
        Target(
            "the solver's own arithmetic",
            f"≤ {OWN_SHARE:.0%} of a score",
            f"{share:.0%}",
            share <= OWN_SHARE,
        ),
        Target(
            "largest tensor of a score",
            f"≤ {needed.bound} numbers",
            f"{needed.largest}",
            needed.largest <= needed.bound,
        ),
        Target(
            f"memory beyond a forward's at N = {math.prod(needed.event)}",
            f"≤ {BEYOND_FORWARD / 2**30:g} GiB",
            None if beyond is None else f"{beyond / 2**30:.2f} GiB",
            None if beyond is None else beyond <= BEYOND_FORWARD,
        ),
    ]


def _accurate(name: str, limit: float, error: float | None) -> Target:
    measured = None if error is None else f"{error:.1e}"
    return Target(name, f"≤ {limit:.0e}", measured, None if error is None else error <= limit)


def _faster(name: str, least: int, costs: dict[str, float]) -> Target:
    ratio = costs[name] / costs["score"] if name in costs else None
    return Target(
        f"score faster than {name}",
        f"≥ {least}×",
        None if ratio is None else f"{ratio:.3g}×" if ratio < 1000 else f"{ratio:.0f}×",
        None if ratio is None else ratio >= least,
    )

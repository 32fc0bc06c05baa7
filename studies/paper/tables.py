"""Records as text."""

from collections.abc import Sequence

from .measurement import PUBLISHED, Step
from .records import Record


def scores_table(record: Record) -> str:
    """Means over images, a row for each VAE."""
    titles = ["β", "mixup", "seed", "ρ", "S", "S none", "S max", "MSE"]
    titles += ["MSE after δ = 0.522", "after norm 1"]
    keys = ("spectral_radius", "entropy", "entropy_none", "entropy_max", "reconstruction_error")
    means = [record[key].mean(1, dtype=float) for key in keys]
    steps = (Step(PUBLISHED[1], 1), Step(1.0, 0))
    after = [record.attack_error(step).mean(1, dtype=float) for step in steps]
    numbers = (record["beta"], record["mixup"], record["seed"], *means, *after)
    return columns(titles, [[f"{v:.4g}" for v in row] for row in zip(*numbers, strict=True)])


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns as wide as their widest cell, two spaces apart."""
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )

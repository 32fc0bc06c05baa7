"""Records as text."""

from .measurement import PUBLISHED, Step
from .records import Record


def scores_table(record: Record) -> str:
    """Means over images, a row for each VAE."""
    title = (
        f"{'β':>10}{'mixup':>7}{'ρ':>10}{'S':>8}{'S none':>9}{'S max':>8}{'MSE':>9}"
        f"{'MSE after δ = 0.522':>21}{'after norm 1':>14}"
    )
    row = "{:>10.4g}{:>7.3g}{:>10.4g}{:>8.3f}{:>9.2f}{:>8.3f}{:>9.5f}{:>21.5f}{:>14.5f}"
    keys = ("spectral_radius", "entropy", "entropy_none", "entropy_max", "reconstruction_error")
    means = [record[key].mean(1, dtype=float) for key in keys]
    steps = (Step(PUBLISHED[1], 1), Step(1.0, 0))
    after = [record.attack_error(step).mean(1, dtype=float) for step in steps]
    rows = zip(record["beta"], record["mixup"], *means, *after, strict=True)
    return "\n".join([title, *(row.format(*values) for values in rows)])

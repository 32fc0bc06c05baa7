"""What the columns of an archive are: dimensions, type and a line of explanation each.

All are numbers without a unit, as images and codes are: UDUNITS knows neither nats nor latents.
"""

from collections.abc import Iterable
from dataclasses import dataclass

FORMAT = 2


@dataclass(frozen=True)
class Column:
    """A data set of the archive.

    Attributes:
        dimensions: their names, ``sample`` first.
        long_name: a line of explanation.
        dtype: None for that of the encoder, float32 or float64.
    """

    dimensions: tuple[str, ...]
    long_name: str
    dtype: str | None = None


_PER_SAMPLE = ("sample",)
_PER_PAIR = ("sample", "rank")
_PER_LATENT = ("sample", "latent")
# netCDF's way: ncdump crashes on text of another kind, or no checksum covers it.
_TEXT = ("sample", "character")

COLUMNS = {
    "eigenvalues": Column(_PER_PAIR, "largest eigenvalues of the metric, descending"),
    "residual_norm": Column(_PER_PAIR, "norm of G v - lambda v"),
    "converged": Column(_PER_PAIR, "1 if the residual is within the tolerance, else 0", "int8"),
    "spectral_radius": Column(_PER_SAMPLE, "largest eigenvalue"),
    "trace": Column(_PER_SAMPLE, "sum of all eigenvalues"),
    "trace_error": Column(_PER_SAMPLE, "standard error of trace"),
    "entropy": Column(_PER_SAMPLE, "von Neumann entropy in nats, eigenvalues divided by their sum"),
    "entropy_error": Column(_PER_SAMPLE, "standard error of entropy"),
    "entropy_none": Column(_PER_SAMPLE, "entropy -sum(l log l) in nats, eigenvalues as they are"),
    "entropy_none_error": Column(_PER_SAMPLE, "standard error of entropy_none"),
    "entropy_max": Column(_PER_SAMPLE, "entropy in nats, eigenvalues divided by the largest"),
    "entropy_max_error": Column(_PER_SAMPLE, "standard error of entropy_max"),
    "effective_rank": Column(_PER_SAMPLE, "exponential of entropy"),
    "anisotropy": Column(_PER_SAMPLE, "largest eigenvalue divided by the sum of all"),
    "log_volume": Column(_PER_SAMPLE, "half the sum of log eigenvalues over the ranks"),
    "failed": Column(_PER_SAMPLE, "1 if the image could not be scored, else 0", "int8"),
    "latent_mean": Column(_PER_LATENT, "mean of the code"),
    "latent_std": Column(_PER_LATENT, "standard deviation of the code"),
    "label": Column(_PER_SAMPLE, "class label of the data set, -1 where unknown", "int64"),
    "file": Column(_TEXT, "file name of the image, in UTF-8", "S1"),
    "directions": Column((*_PER_PAIR, "input"), "unit eigenvectors, inputs flattened"),
}
# Not every run has these.
OPTIONAL = ("latent_mean", "latent_std", "label", "file", "directions")


def choose_columns(dtype: str, optional: Iterable[str]) -> dict[str, str]:
    """The dtypes of a run's columns, with those of the optional ones, for an encoder's dtype."""
    left_out = set(OPTIONAL) - set(optional)
    return {n: column.dtype or dtype for n, column in COLUMNS.items() if n not in left_out}

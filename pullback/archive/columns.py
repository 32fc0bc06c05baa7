"""What the columns of an archive are: dimensions, units and a line of explanation each."""

from dataclasses import dataclass

FORMAT = 1
SQUARED_SLOPE = "latent^2 input^-2"


@dataclass(frozen=True)
class Column:
    """A data set of the archive: its dimensions, units and a line of explanation."""

    dimensions: tuple[str, ...]
    units: str
    long_name: str


_PER_SAMPLE = ("sample",)
_PER_PAIR = ("sample", "rank")
# netCDF's way: ncdump crashes on text of another kind, or no checksum covers it.
_TEXT = ("sample", "character")

COLUMNS = {
    "eigenvalues": Column(
        _PER_PAIR, SQUARED_SLOPE, "largest eigenvalues of the metric, descending"
    ),
    "residual_norm": Column(_PER_PAIR, SQUARED_SLOPE, "norm of G v - lambda v"),
    "converged": Column(_PER_PAIR, "1", "1 if the residual is within the tolerance, else 0"),
    "spectral_radius": Column(_PER_SAMPLE, SQUARED_SLOPE, "largest eigenvalue"),
    "trace": Column(_PER_SAMPLE, SQUARED_SLOPE, "sum of all eigenvalues"),
    "trace_error": Column(_PER_SAMPLE, SQUARED_SLOPE, "standard error of trace"),
    "entropy": Column(_PER_SAMPLE, "nat", "von Neumann entropy, eigenvalues divided by their sum"),
    "entropy_error": Column(_PER_SAMPLE, "nat", "standard error of entropy"),
    "entropy_none": Column(_PER_SAMPLE, "nat", "entropy -sum(l log l), eigenvalues as they are"),
    "entropy_none_error": Column(_PER_SAMPLE, "nat", "standard error of entropy_none"),
    "entropy_max": Column(_PER_SAMPLE, "nat", "entropy, eigenvalues divided by the largest"),
    "entropy_max_error": Column(_PER_SAMPLE, "nat", "standard error of entropy_max"),
    "effective_rank": Column(_PER_SAMPLE, "1", "exponential of entropy"),
    "anisotropy": Column(_PER_SAMPLE, "1", "largest eigenvalue divided by the sum of all"),
    "log_volume": Column(_PER_SAMPLE, "1", "half the sum of log eigenvalues over the ranks"),
    "label": Column(_PER_SAMPLE, "1", "class label of the data set"),
    "file": Column(_TEXT, "1", "file name of the image, in UTF-8"),
    "directions": Column((*_PER_PAIR, "input"), "1", "unit eigenvectors, inputs flattened"),
}

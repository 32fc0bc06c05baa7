"""Matrix-free spectra of the expected pullback metric of an encoder."""

from . import start as start  # isort: split

from . import archive, attacks, eigen, jobs, traces
from .eigen import (
    METHODS,
    ConvergenceWarning,
    EigenPairs,
    RankWarning,
    SingularTriplets,
    WarmStart,
    eigsh,
    svds,
)
from .jobs import score_images
from .maps import Map, as_map
from .metrics import expected_metric, fisher_metric, jacobian, mean_metric, sampled_metric
from .operators import JacobianOperator, PullbackMetric
from .scores import Scores, score
from .traces import Estimate, entropy, trace
from .version import __version__

__all__ = [
    "METHODS",
    "ConvergenceWarning",
    "EigenPairs",
    "Estimate",
    "JacobianOperator",
    "Map",
    "PullbackMetric",
    "RankWarning",
    "Scores",
    "SingularTriplets",
    "WarmStart",
    "__version__",
    "archive",
    "as_map",
    "attacks",
    "eigen",
    "eigsh",
    "entropy",
    "expected_metric",
    "fisher_metric",
    "jacobian",
    "jobs",
    "mean_metric",
    "sampled_metric",
    "score",
    "score_images",
    "svds",
    "trace",
    "traces",
]

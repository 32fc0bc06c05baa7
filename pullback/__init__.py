"""Matrix-free spectra of the expected pullback metric of an encoder."""

from . import archive, attacks, traces
from .eigen import (
    ConvergenceWarning,
    EigenPairs,
    RankWarning,
    SingularTriplets,
    WarmStart,
    eigsh,
    svds,
)
from .maps import Map, as_map
from .metrics import expected_metric, jacobian, sampled_metric
from .operators import JacobianOperator, PullbackMetric
from .scores import Scores, score
from .traces import Estimate, entropy, trace

__all__ = [
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
    "archive",
    "as_map",
    "attacks",
    "eigsh",
    "entropy",
    "expected_metric",
    "jacobian",
    "sampled_metric",
    "score",
    "svds",
    "trace",
    "traces",
]

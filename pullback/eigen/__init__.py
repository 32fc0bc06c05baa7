"""Leading eigenpairs of pullback metrics: `eigsh`, `svds`, and one file for each method."""

from .convergence import ConvergenceWarning, RankWarning
from .cost import METHODS, expected_products
from .eigsh import eigsh
from .records import EigenPairs, SingularTriplets
from .request import Preconditioner
from .svds import svds
from .warm_start import WarmStart

__all__ = [
    "METHODS",
    "ConvergenceWarning",
    "EigenPairs",
    "Preconditioner",
    "RankWarning",
    "SingularTriplets",
    "WarmStart",
    "eigsh",
    "expected_products",
    "svds",
]

"""Traces, entropies and other functions of spectra: estimators, quadrature rules, error bars."""

from .diagonals import diagonal
from .estimators import hutch_plus_plus, hutchinson, xtrace
from .integrands import EXP, INVERSE, LOG, SQRT, XLOGX, Integrand
from .quadrature import QuadratureWarning, quadratic_form
from .records import Estimate
from .slq import trace_of_function
from .spectra import NORMALIZATIONS, entropy, trace

__all__ = [
    "EXP",
    "INVERSE",
    "LOG",
    "NORMALIZATIONS",
    "SQRT",
    "XLOGX",
    "Estimate",
    "Integrand",
    "QuadratureWarning",
    "diagonal",
    "entropy",
    "hutch_plus_plus",
    "hutchinson",
    "quadratic_form",
    "trace",
    "trace_of_function",
    "xtrace",
]

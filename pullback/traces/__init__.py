"""Traces, entropies and other functions of spectra: estimators, quadrature rules, error bars."""

from .estimators import hutch_plus_plus, hutchinson, xtrace
from .integrands import EXP, INVERSE, LOG, SQRT, XLOGX, Integrand
from .lanczos import Tridiagonal, lanczos
from .quadrature import Rule, gauss, quadratic_form, radau
from .records import Estimate
from .slq import trace_of_function
from .spectra import (
    ENTROPY_TOL,
    NORMALIZATIONS,
    TRACE_TOL,
    accurate_entropies,
    accurate_trace,
    entropies_of,
    entropy,
    trace,
    trace_of,
)

__all__ = [
    "ENTROPY_TOL",
    "EXP",
    "INVERSE",
    "LOG",
    "NORMALIZATIONS",
    "SQRT",
    "TRACE_TOL",
    "XLOGX",
    "Estimate",
    "Integrand",
    "Rule",
    "Tridiagonal",
    "accurate_entropies",
    "accurate_trace",
    "entropies_of",
    "entropy",
    "gauss",
    "hutch_plus_plus",
    "hutchinson",
    "lanczos",
    "quadratic_form",
    "radau",
    "trace",
    "trace_of",
    "trace_of_function",
    "xtrace",
]

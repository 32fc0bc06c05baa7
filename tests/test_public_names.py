"""What users may call, name by name: a name is neither lost nor made public unnoticed."""

import importlib
import importlib.metadata
import inspect

import pytest

import pullback

PUBLIC = {
    "pullback": [
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
    ],
    "pullback.eigen": [
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
    ],
    "pullback.traces": [
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
    ],
    "pullback.archive": [
        "COLUMNS",
        "Column",
        "Comparison",
        "Difference",
        "compare",
        "merge",
        "open",
        "read",
        "read_manifest",
        "verify",
    ],
    "pullback.attacks": [
        "EigenAttack",
        "GradientAttack",
        "PGDAttack",
        "Perturbation",
        "RandomAttack",
    ],
    "pullback.jobs": [
        "EncoderSpec",
        "FolderOptions",
        "Framing",
        "Images",
        "Settings",
        "Workers",
        "from_array",
        "open_images",
        "score_images",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_list(module):
    found = importlib.import_module(module)
    assert found.__all__ == PUBLIC[module]
    for name in found.__all__:
        assert hasattr(found, name)
        assert not name.startswith("_") or name == "__version__"


@pytest.mark.parametrize("module", PUBLIC)
def test_all_of_it_is_documented(module):
    found = importlib.import_module(module)
    undocumented = [
        name
        for name in found.__all__
        if callable(getattr(found, name)) and not inspect.getdoc(getattr(found, name))
    ]
    assert undocumented == []


def test_the_version_is_that_of_the_package():
    assert pullback.__version__ == importlib.metadata.version("pullback")

"""Encoders of other packages, at small random configurations, against dense float64."""

import functools

import pytest
import torch
from torch import Tensor

import pullback as pb
from studies.zoo import is_captured
from studies.zoo.encoders import SPECIMENS, Specimen
from tests.conftest import dense_jacobian, stacked

K = 5
DTYPES = [torch.float32, torch.float64]
# Of products, relative to the norm of the Jacobian.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-13}
# Asked of the solvers: residuals relative to the eigenvalue.
TOL = {torch.float32: 1e-4, torch.float64: 1e-8}


every_specimen = pytest.mark.parametrize("specimen", SPECIMENS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
every_size = pytest.mark.parametrize("size", [1, 3])


@functools.cache
def truth(specimen: Specimen, size: int) -> Tensor:
    """``(B, M, N)``, the Jacobian of the stacked map in float64."""
    encoder = declared(specimen, torch.float64)
    return dense_jacobian(stacked(encoder), specimen.inputs(size, torch.float64)).detach()


@functools.cache
def declared(specimen: Specimen, dtype: torch.dtype) -> pb.Map:
    return specimen.glue(specimen.module(dtype))


def rounding(specimen: Specimen, dtype: torch.dtype) -> float:
    return max(ROUNDING[dtype], ROUNDING[specimen.precision])


@every_specimen
@every_dtype
@every_size
def test_products(specimen, dtype, size):
    J, x = truth(specimen, size), specimen.inputs(size, dtype)
    operator = pb.jacobian(declared(specimen, dtype), x)
    generator = torch.Generator().manual_seed(1)
    for found, exact in ((operator, J), (operator.mT, J.mT)):
        rows = torch.randn(size, 3, exact.shape[-1], generator=generator).to(dtype)
        # Solvers hand over what is cheapest for them: any strides.
        for columns in (rows[:, :1].mT, rows.mT, rows.mT.contiguous()):
            with torch.no_grad():  # else they are computed so that they can be differentiated
                product = found @ columns
            error = product.double() - exact @ columns.double()
            assert error.norm() <= rounding(specimen, dtype) * exact.norm() * columns.norm()


@every_specimen
@every_dtype
@every_size
def test_spectra(specimen, dtype, size):
    J, x = truth(specimen, size), specimen.inputs(size, dtype)
    G, values = J.mT @ J, torch.linalg.svdvals(J) ** 2
    encoder = declared(specimen, dtype)
    tol = max(TOL[dtype], 10 * rounding(specimen, dtype))
    scores = pb.score(encoder, x, K, tol=tol)
    pairs = pb.eigsh(pb.expected_metric(encoder, x), K, tol=tol)
    for found, vectors in (
        (scores.eigenvalues, scores.directions.flatten(2).mT),
        (pairs.values, pairs.vectors),
    ):
        V, bound = vectors.double(), 2 * tol * values[:, :K]
        assert ((found - values[:, :K]).abs() <= bound).all()
        assert ((G @ V - V * found[:, None]).norm(dim=1) <= bound).all()


@every_specimen
def test_the_declaration_brings_the_weights(specimen):
    module = specimen.module()
    encoder = specimen.glue(module)
    assert encoder.module is module
    assert encoder.constants() == []


@every_specimen
def test_captured_as_the_table_says(specimen):
    x = specimen.inputs(3)
    assert is_captured(declared(specimen, torch.float32), x) == specimen.captured

"""Residual norms read off a Krylov process, and the product that shows whether they are right."""

from dataclasses import replace

import pytest
import torch

import pullback as pb
from pullback.eigen.bidiagonalisation import Bidiagonalisation
from pullback.eigen.rayleigh_ritz import rayleigh_ritz
from pullback.sampling import SampleStreams
from tests.conftest import numbered, prescribed
from tests.eigen.test_eigsh import geometric, with_spectrum

K = 4


def streams() -> SampleStreams:
    return SampleStreams(2, torch.Generator().manual_seed(0))


def candidates_after(dtype: torch.dtype, steps: int):
    """Candidates after some steps, for two Jacobians 30×80, and these."""
    J = torch.stack([with_spectrum(geometric(30, ratio), 30, 80) for ratio in (0.5, 0.8)]).to(dtype)
    metric = pb.expected_metric(prescribed(J), numbered(J))
    with torch.no_grad():
        process = Bidiagonalisation(metric, streams())
        for _ in range(steps):
            process.expand()
        return J.double(), metric, process.candidates(K)[0]


def residual_norms(J, ritz):
    """On the host, where those reported are."""
    vectors, values = ritz.vectors.double().cpu(), ritz.values.double()
    J = J.cpu()
    return (J.mT @ (J @ vectors) - vectors * values.unsqueeze(-2)).norm(dim=-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [5, 8, 11])
def test_what_a_process_knows_is_true_and_takes_one_product(dtype, steps):
    J, metric, candidates = candidates_after(dtype, steps)
    ritz = rayleigh_ritz(metric, candidates, streams())
    true, noise = residual_norms(J, ritz), 32 * torch.finfo(dtype).eps
    assert ((ritz.residual_norms - true).abs() <= 0.01 * true + noise * ritz.values[:, :1]).all()
    assert true.max() > 100 * noise  # there was something to know
    assert ritz.n_products == 1


@pytest.mark.parametrize("wrong", ["coupling", "outside"])
def test_what_a_process_knows_wrongly_is_found_out(wrong):
    J, metric, candidates = candidates_after(torch.float64, 8)
    known = getattr(candidates, wrong).clone()
    known[1] *= 1.001  # in the second sample
    ritz = rayleigh_ritz(metric, replace(candidates, **{wrong: known}), streams())
    torch.testing.assert_close(ritz.residual_norms, residual_norms(J, ritz), rtol=1e-6, atol=1e-13)
    assert ritz.n_products == 1 + K


def test_candidates_of_which_nothing_is_known():
    J, metric, candidates = candidates_after(torch.float64, 8)
    ritz = rayleigh_ritz(metric, replace(candidates, images=None), streams())
    torch.testing.assert_close(ritz.residual_norms, residual_norms(J, ritz), rtol=1e-6, atol=1e-13)
    assert ritz.n_products == 2 * K

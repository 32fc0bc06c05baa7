"""Nyström sketches and warm starts: cheaper, and never another answer."""

import pytest
import torch

import pullback as pb
from pullback.eigen.driver import solve
from pullback.eigen.nystrom import nystrom
from pullback.eigen.records import SolverResult, Spectrum
from pullback.eigen.request import Request
from pullback.sampling import SampleStreams
from tests.conftest import ConvEncoder
from tests.eigen.test_eigsh import geometric, with_spectrum


def alike(count: int, ratio: float = 0.4, turn: float = 0.01, seed: int = 0) -> torch.Tensor:
    """Jacobians 60×90 whose left singular vectors are nearly unit vectors."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 60, 60, generator=g, dtype=torch.float64)
    left = torch.linalg.qr(torch.eye(60) + turn * noise)[0]
    right = torch.linalg.qr(torch.randn(count, 90, 60, generator=g, dtype=torch.float64))[0]
    return left * geometric(60, ratio).sqrt() @ right.mT


def sketched(J: torch.Tensor, request: Request) -> tuple[SolverResult, Spectrum]:
    """What a sketch leaves, and what it knows of the whole spectra."""
    with torch.no_grad():
        streams = SampleStreams(len(J), torch.Generator())
        result = nystrom(pb.PullbackMetric(J), request, streams)
    assert result.spectrum is not None
    return result, result.spectrum


def test_a_sketch_that_spans_the_range_is_exact():
    J = with_spectrum(geometric(5, 0.5), 30, 50)[None]
    left = torch.linalg.svd(J[0])[0][:, :8]
    result, spectrum = sketched(J, Request(5, start=left))
    torch.testing.assert_close(spectrum.values[0, :5], geometric(5, 0.5))
    assert spectrum.remainder.item() < 1e-12
    assert result.finished is not None
    assert result.finished.all()


def test_never_more_than_the_exact_eigenvalues():
    # The approximation J P Jᵀ is at most JJᵀ, and what is left is estimated without bias.
    J = with_spectrum(geometric(60, 0.9), 60, 90).expand(300, 60, 90)
    _, spectrum = sketched(J, Request(5))
    values = spectrum.values
    exact = geometric(60, 0.9).to(values)
    assert (values <= exact[: values.shape[-1]] * (1 + 1e-12)).all()
    total = values.sum(-1) + spectrum.remainder
    error = (total - exact.sum()).abs()
    assert (error <= 2 * spectrum.remainder_error).double().mean() >= 0.9


@pytest.mark.parametrize(
    ("method", "ratio", "turn"),
    [("nystrom", 0.4, 0.01), ("lanczos", 0.9, 1e-5), ("lobpcg", 0.9, 1e-5)],
)
def test_a_warm_start_changes_the_cost_and_not_the_answer(method, ratio, turn):
    warm = pb.WarmStart(size=12)
    assert warm.sketch is None
    pb.eigsh(pb.PullbackMetric(alike(8, ratio, turn)), 4, "dual", warm_start=warm)
    sketch = warm.sketch
    assert sketch is not None
    assert sketch.shape == (60, 12)
    torch.testing.assert_close(sketch.mT @ sketch, torch.eye(12, dtype=torch.float64))
    metric = pb.PullbackMetric(alike(4, ratio, turn, seed=5))
    cold, exact = pb.eigsh(metric, 4, method), pb.eigsh(metric, 4, "dual")
    hot = pb.eigsh(metric, 4, method, warm_start=warm)
    assert hot.converged.all()
    assert hot.n_products < cold.n_products
    torch.testing.assert_close(hot.values, exact.values, rtol=1e-6, atol=0)


def test_a_warm_start_that_misleads_is_made_good():
    warm = pb.WarmStart(size=12)
    pb.eigsh(pb.PullbackMetric(alike(8)), 4, "dual", warm_start=warm)
    J = torch.stack([with_spectrum(geometric(60, 0.7), 60, 90, seed) for seed in range(3)])
    pairs = pb.eigsh(pb.PullbackMetric(J), 4, "nystrom", warm_start=warm)
    assert pairs.converged.all()
    torch.testing.assert_close(pairs.values, geometric(4, 0.7).expand(3, 4), rtol=1e-6, atol=0)
    # The samples go on with Golub–Kahan.
    assert (pairs.iterations > 5).all()


def test_scores_with_a_warm_start_repeat_and_stay_within_their_errors():
    encoder = pb.as_map(ConvEncoder(latent=40).double().eval(), "mean_logvar")
    x = torch.rand(9, 3, 32, 32, dtype=torch.float64)
    exact = pb.score(encoder, x, method="dual")
    runs = []
    for _ in range(2):
        warm = pb.WarmStart()
        parts = [pb.score(encoder, part, method="nystrom", warm_start=warm) for part in x.split(3)]
        runs.append(torch.cat([part.entropy for part in parts]))
        assert all(part.converged.all() for part in parts)
        values = torch.cat([part.eigenvalues for part in parts])
        torch.testing.assert_close(values, exact.eigenvalues, rtol=1e-6, atol=0)
    assert torch.equal(*runs)
    assert (runs[0] - exact.entropy).abs().max() < 2e-3


def test_what_is_not_accepted():
    with pytest.raises(ValueError, match="size=0 must be at least 1"):
        pb.WarmStart(0)
    warm = pb.WarmStart()
    pb.eigsh(pb.PullbackMetric(alike(2)), 3, warm_start=warm)
    other = pb.PullbackMetric(torch.rand(2, 40, 90, dtype=torch.float64))
    with pytest.raises(ValueError, match="the sketch has 60 rows"):
        pb.eigsh(other, 3, "nystrom", warm_start=warm)


def test_a_tall_jacobian():
    J = with_spectrum(geometric(20, 0.3), 50, 20)[None]
    with torch.no_grad():
        streams = SampleStreams(1, torch.Generator().manual_seed(0))
        pairs = solve(pb.PullbackMetric(J), Request(4, "nystrom"), streams).pairs
    torch.testing.assert_close(pairs.values[0], geometric(4, 0.3), rtol=1e-6, atol=0)
    weighted = pb.PullbackMetric(J, torch.eye(50, dtype=torch.float64)[None])
    for method in ("nystrom", "golub-kahan"):
        with pytest.raises(ValueError, match=f"'{method}' takes a weighted metric only if"):
            pb.eigsh(weighted, 4, method)


def test_a_warm_start_goes_along_with_a_map_that_is_moved(device):
    A = alike(4).float()
    warm_start, known = pb.WarmStart(), torch.linalg.svdvals(A.cpu().double())[:, :3].square()
    for J in (A.cpu(), A.to(device), A.cpu()):
        pairs = pb.eigsh(pb.PullbackMetric(J), 3, "nystrom", warm_start=warm_start)
        assert pairs.values.device == J.device
        torch.testing.assert_close(pairs.values.cpu().double(), known, rtol=1e-5, atol=0)

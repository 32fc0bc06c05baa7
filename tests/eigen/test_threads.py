"""Solvers after the number of threads was set, where PyTorch's batched LU can go wrong."""

import pytest
import torch

import pullback as pb


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["golub-kahan", "lanczos", "lobpcg", "nystrom"])
def test_many_pairs(two_threads, method):
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(1, 3, 240, dtype=torch.float64).unsqueeze(1)
    A = rows * torch.randn(240, 260, generator=generator, dtype=torch.float64)
    x = torch.rand(2, 260, generator=generator, dtype=torch.float64)
    metric = pb.expected_metric(pb.as_map(lambda x: x @ A.T, returns="mean"), x)
    pairs = pb.eigsh(metric, k=200, method=method)
    assert pairs.converged.all()
    expected = torch.linalg.svdvals(A)[:200].square().expand(2, -1)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-8, atol=0)

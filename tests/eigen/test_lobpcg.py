"""LOBPCG against dense float64 and scipy, on spectra that are easy and that are not."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from linear_operator.operators import DenseLinearOperator, DiagLinearOperator
from torch import Tensor

import pullback as pb
from pullback.eigen.driver import find_pairs
from pullback.eigen.request import Request
from pullback.sampling import SampleStreams
from tests.eigen.test_eigsh import DTYPES, HARD, geometric, with_spectrum
from tests.eigen.test_lanczos import check, honest, psd, streams, symmetric


def lobpcg(A, k, tol, streams, **settings) -> pb.EigenPairs:
    """Certified eigenpairs, by LOBPCG on the operator itself."""
    return find_pairs(A, Request(k, "lobpcg", tol, **settings), streams)


def negative_laplacian(n: int) -> Tensor:
    """−(L + D): the Laplacian of a chain of n points, and a diagonal from 1 to 1e4."""
    laplacian = 2 * torch.eye(n, dtype=torch.float64)
    laplacian -= torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    laplacian -= torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    return -(laplacian + torch.diag(torch.logspace(0, 4, n, dtype=torch.float64)))


class Counted(DenseLinearOperator):
    """A matrix that counts the columns it is multiplied by."""

    columns = 0

    def _matmul(self, rhs: Tensor) -> Tensor:
        Counted.columns += rhs.shape[-1]
        return super()._matmul(rhs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [20, 70])
def test_hard_spectra(n, dtype):
    G = torch.stack([psd(s, n, seed) for seed, s in enumerate(HARD.values())]).to(dtype)
    pairs = lobpcg(DenseLinearOperator(G), 5, 1e-4, streams(len(G)))
    check(G, pairs, 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_indefinite_operators(dtype):
    spectra = [
        torch.cat([torch.tensor([2.0, 2.0, 1.5, 1.0]), torch.linspace(0.5, -3, 93)]),
        torch.cat([-geometric(60, 0.8), geometric(37, 0.7)]),
        torch.linspace(-1, 0, 97),
    ]
    A = torch.stack([symmetric(s) for s in spectra]).to(dtype)
    check(A, lobpcg(DenseLinearOperator(A), 5, 1e-4, streams(3)), 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pullback_metric_of_the_small_side(dtype):
    J = torch.stack([with_spectrum(geometric(64, r), 64, 300) for r in (0.3, 0.9)]).to(dtype)
    pairs = lobpcg(pb.PullbackMetric(J.mT), 5, 1e-4, streams(2))
    check(J @ J.mT, pairs, 5)
    assert pairs.iterations[0] < pairs.iterations[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_copy_of_a_repeated_eigenvalue(dtype):
    fast = torch.cat([torch.full((4,), 2.0), geometric(196, 0.8)])
    slow = torch.cat([torch.full((8,), 1.0), torch.linspace(0.97, 0, 192)])
    G = torch.stack([psd(fast, 200), psd(slow, 200)]).to(dtype).repeat_interleave(3, 0)
    check(G, lobpcg(DenseLinearOperator(G), 6, 1e-4, streams(6)), 6)


def test_long_runs_stay_orthonormal_and_accurate():
    G = psd(torch.linspace(1, 0, 400), 400)[None]
    pairs = lobpcg(DenseLinearOperator(G), 4, 1e-9, streams(1))
    assert pairs.iterations > 60
    check(G, pairs, 4, tol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_does_not_depend_on_its_batch(dtype):
    spectra = [*HARD.values(), geometric(70, 0.95), torch.linspace(1, 0.1, 70)]
    G = torch.stack([psd(s, 70, seed) for seed, s in enumerate(spectra)]).to(dtype)
    together = lobpcg(DenseLinearOperator(G), 4, 1e-4, streams(len(G)))
    assert together.iterations[0] == 3
    assert together.iterations[-1] > 8
    generator = torch.Generator().manual_seed(0)
    for i in range(len(G)):
        alone = lobpcg(DenseLinearOperator(G[i : i + 1]), 4, 1e-4, SampleStreams(1, generator))
        scale = torch.finfo(dtype).eps * G[i].abs().max().item()
        torch.testing.assert_close(alone.values[0], together.values[i], rtol=1e-6, atol=100 * scale)
        assert (alone.iterations[0] - together.iterations[i]).abs() <= 1


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (7, 7), (15, 1), (16, 1), (30, 6), (31, 6)])
def test_small_spaces(n, k):
    A = torch.stack([symmetric(s) for s in (torch.arange(n) - 2.0, torch.zeros(n), -torch.ones(n))])
    check(A, lobpcg(DenseLinearOperator(A), k, 1e-4, streams(3)), k)


def test_products_are_those_made():
    G = psd(geometric(100, 0.9), 100)[None]
    Counted.columns = 0
    pairs = lobpcg(Counted(G), 4, 1e-6, streams(1))
    assert pairs.n_products == Counted.columns
    # Vectors that have converged cost nothing more.
    assert pairs.n_products < 8 * (1 + pairs.iterations) + 4


def test_a_warm_start_costs_less_and_changes_nothing_else():
    G = psd(geometric(200, 0.95), 200).repeat(2, 1, 1)
    start = torch.linalg.eigh(G)[1][..., -5:].flip(-1)
    start = start + 1e-4 * torch.randn_like(start)
    cold = lobpcg(DenseLinearOperator(G), 5, 1e-4, streams(2))
    for given in (start, start[0], 1e6 * start.float()):
        warm = lobpcg(DenseLinearOperator(G), 5, 1e-4, streams(2), start=given)
        check(G, warm, 5)
        assert warm.n_products < cold.n_products
        assert (warm.iterations < cold.iterations).all()


@pytest.mark.parametrize("ratio", [0.7, 0.95])
def test_a_start_that_lacks_the_leading_eigenvectors(ratio):
    G = psd(geometric(200, ratio), 200).expand(5, -1, -1)
    vectors = torch.linalg.eigh(G[0])[1].flip(-1)
    dependent = vectors[:, [3, 3, 3]]
    for wrong in (vectors[:, 5:12], vectors[:, [0, 2, 4]], vectors[:, -9:], dependent):
        check(G, lobpcg(DenseLinearOperator(G), 5, 1e-4, streams(5), start=wrong), 5)


def test_a_good_preconditioner_saves_iterations():
    A = torch.stack([negative_laplacian(300), negative_laplacian(300) / 7])
    diagonal = -1 / A.diagonal(dim1=-2, dim2=-1)
    plain = lobpcg(DenseLinearOperator(A), 3, 1e-5, streams(2))
    for preconditioner in (DiagLinearOperator(diagonal), lambda r: diagonal.unsqueeze(-1) * r):
        pairs = lobpcg(DenseLinearOperator(A), 3, 1e-5, streams(2), preconditioner=preconditioner)
        check(A, pairs, 3, tol=1e-5)
        assert (pairs.iterations < plain.iterations / 4).all()
        assert pairs.n_products < plain.n_products / 4


def test_agreement_with_scipy():
    A = negative_laplacian(300)
    inverse = np.diag(-1 / A.diagonal().numpy())
    X = torch.randn(300, 3, dtype=torch.float64).numpy()
    expected, _ = scipy.sparse.linalg.lobpcg(A.numpy(), X, M=inverse, tol=1e-8, maxiter=200)
    pairs = lobpcg(
        DenseLinearOperator(A[None]),
        3,
        1e-8,
        streams(1),
        preconditioner=lambda r: torch.from_numpy(inverse) @ r,
    )
    torch.testing.assert_close(pairs.values[0], torch.from_numpy(expected))


def test_what_is_not_reached_is_reported():
    G = psd(torch.linspace(1, 0.9, 400), 400)[None]
    for most in (0, 1, 10):
        pairs = lobpcg(DenseLinearOperator(G), 5, 1e-6, streams(1), max_steps=most)
        honest(G, pairs, 1e-6)
        assert not pairs.converged.any()
        assert pairs.iterations.tolist() == [most]


def test_what_is_not_accepted():
    A = DenseLinearOperator(torch.eye(40).expand(2, 40, 40))
    with pytest.raises(ValueError, match=r"start must have shape \(40, p\) or \(2, 40, p\), got"):
        lobpcg(A, 2, 1e-4, streams(2), start=torch.ones(3, 40, 1))
    broken = torch.eye(40).repeat(2, 1, 1)
    broken[1, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="the operator's product is NaN or infinite in sample 1"):
        lobpcg(DenseLinearOperator(broken), 2, 1e-4, streams(2))
    for other in (lambda r: r[..., :1], lambda r: r.mT, lambda _: None):
        with pytest.raises(ValueError, match=r"preconditioner must return residuals .*, got"):
            pb.eigsh(pb.PullbackMetric(torch.rand(2, 5, 30)), 2, "lobpcg", preconditioner=other)
    with pytest.raises(ValueError, match="the preconditioner's result is NaN or infinite in sampl"):
        lobpcg(
            DenseLinearOperator(symmetric(torch.linspace(0, 1, 40))[None]),
            2,
            1e-4,
            streams(1),
            preconditioner=lambda r: r / 0,
        )

"""The factorisation identities of Golub–Kahan, restarts and blocks included."""

import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback.eigen.bidiagonalisation import Bidiagonalisation
from pullback.eigen.golub_kahan import golub_kahan
from pullback.eigen.request import Request
from pullback.sampling import SampleStreams
from tests.eigen.test_eigsh import HARD, geometric, with_spectrum

DTYPES = [torch.float32, torch.float64]


def streams(batch: int, seed: int = 0) -> SampleStreams:
    return SampleStreams(batch, torch.Generator().manual_seed(seed))


def assert_identities(
    process: Bidiagonalisation, J: Tensor, weight: Tensor | None = None, renewed: int = 0
) -> None:
    """J V = U H, JᵀM U = V Hᵀ + F Cᵀ, UᵀMU = I, [V F] orthonormal; zero vectors apart.

    The last samples, of which ``renewed`` have forgotten a part of F Cᵀ, lack the second.
    """
    eps, (rows, columns) = torch.finfo(J.dtype).eps, J.shape[-2:]
    J, M = J.double(), torch.eye(rows) if weight is None else weight
    M = M.double()
    U = process.left.vectors.mT
    V = torch.cat([*process.blocks, process.next_block], dim=1).double().mT
    H, C, s = process.H, process.coupling, process.H.shape[-1]
    scale = torch.linalg.matrix_norm(J, 2).max() * torch.linalg.matrix_norm(M, 2).max().sqrt()
    tolerance = 10 * eps * columns
    torch.testing.assert_close(J @ V[..., :s], U @ H, rtol=0, atol=(tolerance * scale).item())
    adjoint = V[..., :s] @ H.mT + V[..., s:] @ C.mT
    # What is taken out of V where it is not orthogonal any more, 32·eps at most, is not recorded.
    slack = 4 * scale * max(tolerance, 64 * eps)
    whole = slice(0, len(J) - renewed)
    error = (J.mT @ M @ U - adjoint)[whole].abs().max()
    assert error <= slack
    for basis, inner in ((U, M), (V, torch.eye(columns, dtype=torch.float64))):
        gram = basis.mT @ inner @ basis
        lengths = gram.diagonal(dim1=-2, dim2=-1)
        assert ((lengths < 1e-20) | ((lengths - 1).abs() < tolerance)).all()
        beside = gram - torch.diag_embed(lengths)
        assert beside.abs().max() <= max(10 * eps * columns, 100 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("spectrum", ["repeated", "rank-deficient", "huge", "flat"])
def test_identities_with_restarts(spectrum, width, dtype):
    J = torch.stack([with_spectrum(HARD[spectrum], 30, 60, seed) for seed in (0, 1)]).to(dtype)
    process = Bidiagonalisation(pb.PullbackMetric(J), streams(2), width)
    for step in range(1, 9):
        process.expand()
        assert_identities(process, J, renewed=step > 4)
        if step == 4:
            # The first sample goes on from where it was, the second from a random vector.
            process.restart(5, torch.tensor([False, True]))
            assert_identities(process, J, renewed=1)


def test_identities_with_a_weight_and_a_frozen_sample():
    J = torch.stack([with_spectrum(geometric(15, 0.6), 20, 40, seed) for seed in (0, 1)])
    weight = with_spectrum(geometric(20, 0.8), 20, 20, 7)
    weight = weight @ weight.mT + 0.1 * torch.eye(20)
    metric = pb.PullbackMetric(J, weight.expand(2, 20, 20))
    process = Bidiagonalisation(metric, streams(2))
    for step in range(8):
        process.expand()
        if step == 4:
            process.freeze(torch.tensor([True, False], device=process.active.device))
    assert process.steps.tolist() == [5, 8]
    assert_identities(process, J, weight)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_small_basis_finds_the_same_by_restarts(width):
    spectra = (geometric(120, 0.95), torch.cat([torch.full((3,), 2.0), geometric(117, 0.9)]))
    J = torch.stack([with_spectrum(s, 120, 200, seed) for seed, s in enumerate(spectra)])
    metric = pb.PullbackMetric(J)
    with torch.no_grad():
        request = Request(4, tol=1e-6, block=width, max_basis=20)
        result = golub_kahan(metric, request, streams(2))
    assert result.finished is not None
    assert result.finished.all()
    assert result.candidates.images is not None
    values = result.candidates.images.square().sum(-2)
    exact = torch.stack([s[:4] for s in spectra])
    torch.testing.assert_close(values, exact, rtol=1e-6, atol=0)
    assert (result.iterations * width > 20).any()


def test_steps_that_run_out_are_reported():
    metric = pb.PullbackMetric(with_spectrum(geometric(100, 0.99), 100, 150)[None])
    with torch.no_grad():
        result = golub_kahan(metric, Request(4, tol=1e-6, max_steps=6), streams(1))
    assert result.finished is not None
    assert not result.finished.any()
    assert result.iterations.tolist() == [6]


def test_products_are_counted():
    calls = []

    def counting(product):
        def counted(rhs):
            calls.append(rhs.shape[-1])
            return product(rhs)

        return counted

    J = with_spectrum(geometric(40, 0.5), 40, 60)[None]
    metric = pb.PullbackMetric(J)
    for name in ("_matmul", "_t_matmul"):
        setattr(metric.jacobian, name, counting(getattr(metric.jacobian, name)))
    with torch.no_grad():
        result = golub_kahan(metric, Request(3), streams(1))
    assert result.n_products == sum(calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_blocks_stay_orthogonal_on_repeated_values(width, dtype):
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        spectrum = torch.randint(0, 5, (60,), generator=g).double().sort(descending=True).values
        metric = pb.PullbackMetric(with_spectrum(spectrum, 60, 90, seed).to(dtype)[None])
        process = Bidiagonalisation(metric, streams(1), width)
        for _ in range(40 // width):
            process.expand()
        V = torch.cat([*process.blocks, process.next_block], dim=1).double()
        gram = V @ V.mT
        # A vanishing vector is a row of zeros.
        expected = torch.diag_embed((gram.diagonal(dim1=-2, dim2=-1) > 0.5).double())
        assert (gram - expected).abs().max() < 1e3 * torch.finfo(dtype).eps
        pairs = pb.eigsh(metric, 5, "golub-kahan", block=width)
        assert pairs.converged.all()
        rounding = 300 * torch.finfo(dtype).eps
        torch.testing.assert_close(pairs.values[0].double(), spectrum[:5], rtol=rounding, atol=0)

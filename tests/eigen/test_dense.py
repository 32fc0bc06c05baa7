"""Gram–Schmidt, and what stands for a unit vector, a sign or a quotient where there is none."""

import pytest
import torch

from pullback.eigen.dense import (
    descending_eigh,
    eigh,
    normalise,
    orthonormalise,
    padded_eigh,
    project_out,
    reciprocal,
    signs,
    square_root,
    svd,
    tridiagonal_eigh,
)


def test_orthonormal_bases_drop_what_is_dependent():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 200, 6, generator=g, dtype=torch.float64))[0]
    new = torch.randn(2, 200, 3, generator=g, dtype=torch.float64)
    inside = basis @ torch.randn(2, 6, 2, generator=g, dtype=torch.float64)
    nearly = inside + 1e-13 * torch.randn(2, 200, 2, generator=g, dtype=torch.float64)
    block = torch.cat([1e8 * new, new[..., :1] - new[..., 1:2], 0 * inside, 1e-8 * nearly], dim=-1)
    block[1, :, 0] = 0
    found = orthonormalise(block, basis)
    used = (found != 0).any(-2)
    # The second sample has the difference of two vectors in place of the first of them.
    assert used.sum(-1).tolist() == [3, 3]
    both = torch.cat([basis, found], dim=-1)
    gram = both.mT @ both
    expected = torch.diag_embed(torch.cat([torch.ones_like(used[:, :6]), used], dim=-1).double())
    assert (gram - expected).abs().max() < 1e-13


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_gram_schmidt(batch):
    basis = torch.linalg.qr(torch.randn(*batch, 30, 5, dtype=torch.float64))[0]
    block = torch.randn(*batch, 30, 3, dtype=torch.float64)
    rest, inside = project_out(block, basis)
    torch.testing.assert_close(rest + basis @ inside, block)
    assert (basis.mT @ rest).abs().max() < 1e-14
    nothing, _ = project_out(block, basis[..., :0])
    assert torch.equal(nothing, block)


def test_eigenvalues_and_their_order():
    A = torch.randn(2, 6, 6, dtype=torch.float64)
    A = A + A.mT
    values, vectors = descending_eigh(A)
    assert (values.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(A @ vectors, vectors * values.unsqueeze(-2))
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    A[1, 4:], A[1, :, 4:] = 0, 0
    values, vectors = padded_eigh(A, valid)
    torch.testing.assert_close(values[1, 2:], torch.linalg.eigvalsh(A[1, :4, :4]))
    assert vectors[1, 4:, 2:].abs().max() < 1e-14
    diagonal, beside = torch.randn(2, 6).double(), torch.randn(2, 5).double()
    values, vectors = tridiagonal_eigh(diagonal, beside)
    T = torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    torch.testing.assert_close(T @ vectors, vectors * values.unsqueeze(-2))
    root = square_root(T @ T)
    torch.testing.assert_close(root @ root, T @ T)


def test_vectors_of_zeros():
    block = torch.tensor([[3.0, 0.0, -1.0], [-4.0, 0.0, 1.0]])
    assert torch.equal(normalise(block)[:, 1], torch.zeros(2))
    torch.testing.assert_close(normalise(block).norm(dim=0), torch.tensor([1.0, 0.0, 1.0]))
    assert reciprocal(torch.tensor([4.0, 0.0])).tolist() == [0.25, 0.0]
    assert signs(block).tolist() == [[-1.0, 1.0, 1.0]]


@pytest.mark.parametrize("solve", [eigh, svd])
def test_vectors_that_are_not_orthonormal_are_refused(solve, monkeypatch):
    matrix = torch.diag_embed(torch.rand(3, 8, dtype=torch.float64))
    solve(matrix)
    solve(0 * matrix)
    solve(matrix[:, :0, :0])
    real = getattr(torch.linalg, solve.__name__)

    def wrong(*args, **kwargs):
        result = [part.clone() for part in real(*args, **kwargs)]
        result[-1][1] += 1e-4
        return result

    monkeypatch.setattr(torch.linalg, solve.__name__, wrong)
    with pytest.raises(RuntimeError, match="8 rows, came out wrong"):
        solve(matrix)

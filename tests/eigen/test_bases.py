"""Bases that grow, against the matrices that they stand for."""

import pytest
import torch

import pullback as pb
from pullback.eigen.bases import RowChunks, WeightedBasis
from pullback.eigen.remainder import ProbedRemainder

B, N = 2, 40


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_rows_in_chunks_are_one_matrix(width):
    # 7 rows, as after a restart, and two blocks of the width behind them.
    rows = torch.linalg.qr(draw(B, N, 7 + 2 * width))[0].mT
    chunks = RowChunks(width)
    for block in rows.split([4, 3, width, width], dim=1):
        assert torch.equal(chunks.append(block), block)
    assert chunks.count == rows.shape[1]
    assert torch.equal(torch.cat(list(chunks), dim=1), rows)
    assert max(chunk.shape[1] for chunk in chunks) <= max(width, 4)
    coefficients = draw(B, rows.shape[1], 5)
    torch.testing.assert_close(chunks.combine(coefficients), coefficients.mT @ rows)
    block = draw(B, 3, N)
    chunks.take_out_of(block)
    assert (block @ rows.mT).abs().max() < 1e-13
    one = chunks.select(torch.tensor([1]))
    assert torch.equal(torch.cat(list(one), dim=1), rows[1:])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_basis_in_the_inner_product_of_a_weight_and_what_it_leaves_of_probes(weighted):
    root = draw(B, N, N)
    M = root @ root.mT if weighted else torch.eye(N, dtype=torch.float64).expand(B, N, N)
    metric = pb.PullbackMetric(torch.eye(N).double().expand(B, N, N), M if weighted else None)
    basis, probes = WeightedBasis(metric, N), draw(B, N, 3)
    remainder = ProbedRemainder(probes, M @ probes if weighted else probes)
    for p in draw(20, B, N):
        rest, known = p.clone(), basis.vectors.mT
        inside = basis.take_out_of(rest.unsqueeze(-1))
        torch.testing.assert_close(rest + (known @ inside).squeeze(-1), p)
        weight_of_rest, norm = basis.weigh(rest)
        basis.append(rest, weight_of_rest, 1 / norm.unsqueeze(-1))
        remainder.take_out(basis.vectors[:, -1], basis.weighted[:, -1])
    U = basis.vectors.mT
    torch.testing.assert_close(basis.weighted.mT, M @ U)
    torch.testing.assert_close(U.mT @ M @ U, torch.eye(20, dtype=torch.float64).expand(B, 20, 20))
    left = probes - U @ (U.mT @ (M @ probes))
    torch.testing.assert_close(remainder.products(), left.mT @ M @ left)
    X = torch.linalg.qr(draw(B, 20, 6))[0]
    basis.rotate(X)
    remainder.start_anew(basis)
    torch.testing.assert_close(basis.vectors.mT, U @ X)
    left = probes - U @ X @ (X.mT @ U.mT @ (M @ probes))
    for chosen in (remainder, remainder.select(torch.tensor([0, 1]))):
        torch.testing.assert_close(chosen.products(), left.mT @ M @ left)

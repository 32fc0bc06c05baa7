"""Bounds on the errors of eigenvalues and singular values, against dense float64."""

import pytest
import torch
from linear_operator.operators import DenseLinearOperator
from torch import Tensor

import pullback as pb
from pullback.eigen.errors import error_bounds
from tests.conftest import SmoothEncoder, numbered, prescribed
from tests.eigen.test_eigsh import DTYPES, HARD, METHODS, SHAPES, geometric, with_spectrum

K = 5


def exact_values(J: Tensor, k: int) -> Tensor:
    return torch.linalg.svdvals(J.double()).square()[..., :k]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tol", [1e-1, 1e-4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_no_error_of_a_hard_spectrum_is_larger(method, tol, shape, dtype):
    J = torch.stack([with_spectrum(s, *SHAPES[shape], i) for i, s in enumerate(HARD.values())])
    J = J.to(dtype)
    pairs = pb.eigsh(pb.expected_metric(prescribed(J), numbered(J)), K, method, tol)
    exact = exact_values(J, K)
    assert pairs.errors.shape == pairs.values.shape
    assert pairs.errors.dtype == dtype
    rounding = 32 * torch.finfo(dtype).eps * exact[:, :1]
    assert ((pairs.values - exact).abs() <= pairs.errors + rounding).all()
    assert (pairs.errors <= K**0.5 * pairs.residual_norms.amax(-1, keepdim=True)).all()
    assert (pairs.errors[pairs.values == 0] == 0).all()


def test_beyond_the_rank_and_far_from_one_they_are_exact():
    J = torch.stack([with_spectrum(geometric(3, 0.5), 20, 30) * s for s in (1e-15, 1.0, 1e15)])
    with pytest.warns(pb.RankWarning):
        pairs = pb.eigsh(pb.PullbackMetric(J.float()), K)
    assert (pairs.errors[:, 3:] == 0).all()
    relative = pairs.errors[:, :3] / pairs.values[:, :1]
    assert (relative > 0).all()
    assert (relative < 1e-5).all()


def test_values_closer_than_their_residuals_are_taken_together():
    # Two Ritz values 1, of which each has the residual r along one vector: an eigenvalue 1 + √2 r.
    r = 0.1
    A = torch.tensor([[1, 0, r], [0, 1, r], [r, r, 1.0]], dtype=torch.float64)
    exact = torch.linalg.eigvalsh(A).flip(-1)
    values, norms = torch.ones(2, dtype=torch.float64), torch.full((2,), r, dtype=torch.float64)
    bounds = error_bounds(values, norms, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(exact[0] - values[0], bounds[0])
    assert r < exact[0] - values[0]
    # A third that both together reach, but neither alone, and a fourth that none does.
    values = torch.tensor([1.0, 1.0, 0.87, 0.3])
    norms = torch.tensor([0.1, 0.1, 0.01, 0.02])
    bounds = error_bounds(values, norms, torch.ones(4, dtype=torch.bool))
    joined = (2 * 0.1**2 + 0.01**2) ** 0.5
    torch.testing.assert_close(bounds, torch.tensor([joined, joined, joined, 0.02]))


def test_pairs_that_have_not_converged_are_as_far_off_as_is_said():
    J = torch.stack([with_spectrum(geometric(60, r), 60, 80, i) for i, r in enumerate((0.99, 0.9))])
    G = DenseLinearOperator(J.mT @ J)
    start = torch.randn(2, 80, K, dtype=torch.float64)
    V = torch.linalg.qr(G @ (G @ start))[0]
    values, X = torch.linalg.eigh(V.mT @ (G @ V))
    values, V = values.flip(-1), V @ X.flip(-1)
    norms = (G @ V - V * values.unsqueeze(-2)).norm(dim=-2)
    bounds = error_bounds(values, norms, torch.zeros_like(values, dtype=torch.bool))
    nearest = (values.unsqueeze(-1) - torch.linalg.eigvalsh(J.mT @ J).unsqueeze(-2)).abs().amin(-1)
    assert (norms > 1e-2).any()
    assert (nearest <= bounds).all()


@pytest.mark.parametrize("which", ["smallest", "both"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_either_end_of_an_indefinite_operator(dtype, which):
    eigenvalues = torch.linspace(-1, 2, 40, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    A = ((Q * eigenvalues) @ Q.mT).to(dtype)
    pairs = pb.eigsh(DenseLinearOperator((A + A.mT) / 2), 4, which=which, tol=1e-3)
    found = torch.linalg.eigvalsh(A.double()).flip(-1)
    exact = found[-4:] if which == "smallest" else torch.cat([found[:2], found[-2:]])
    rounding = 32 * torch.finfo(dtype).eps * 2
    assert ((pairs.values - exact).abs() <= pairs.errors + rounding).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::pullback.RankWarning", "ignore::pullback.ConvergenceWarning")
def test_singular_values(method, shape, dtype):
    J = torch.stack([with_spectrum(s, *SHAPES[shape], i) for i, s in enumerate(HARD.values())])
    J = J.to(dtype)
    triplets = pb.svds(pb.jacobian(prescribed(J), numbered(J)), K, method, tol=1e-2)
    exact = torch.linalg.svdvals(J.double())[:, :K]
    known = triplets.converged
    rounding = 4 * max(J.shape[-2:]) ** 0.5 * torch.finfo(dtype).eps * exact[:, :1]
    assert ((triplets.values - exact).abs() <= triplets.errors + rounding)[known].all()
    assert (triplets.errors[(triplets.values == 0) & known] == 0).all()


@pytest.mark.parametrize("captured", [True, False])
def test_a_single_image_with_a_decoder(captured):
    encoder, decoder = SmoothEncoder(48, 4), torch.nn.Linear(4, 50)

    def branching(x: Tensor) -> tuple[Tensor, Tensor]:
        return encoder(x) if bool(x.isfinite().all()) else encoder(0 * x)

    fn = pb.as_map(encoder if captured else branching, "mean_logvar")
    metric = pb.expected_metric(fn, torch.rand(3, 4, 4), decoder, batch_dims=0)
    pairs = pb.eigsh(metric, 3)
    exact = torch.linalg.eigvalsh(metric.to_dense().double()).flip(-1)[:3]
    assert pairs.errors.shape == (3,)
    assert ((pairs.values - exact).abs() <= pairs.errors + 1e-5 * exact[0]).all()

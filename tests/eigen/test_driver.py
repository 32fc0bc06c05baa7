"""One way through every method: what is certified, once, and what is counted."""

from dataclasses import replace

import pytest
import torch
from linear_operator.operators import DenseLinearOperator
from torch import Tensor, nn

import pullback as pb
from pullback.eigen.dense import descending_eigh
from pullback.eigen.driver import SOLVERS, find_pairs, solve
from pullback.eigen.records import Candidates
from pullback.eigen.request import Request
from pullback.products import is_launch_bound, linearize, max_block
from pullback.sampling import SampleStreams
from tests.eigen.test_eigsh import geometric, with_spectrum

ITERATIVE = ["golub-kahan", "lanczos", "lobpcg", "nystrom"]


class Counted(DenseLinearOperator):
    """A matrix that counts the columns that it, or its transpose, is multiplied by."""

    columns = 0

    def _matmul(self, rhs: Tensor) -> Tensor:
        Counted.columns += rhs.shape[-1]
        return super()._matmul(rhs)

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        return self.mT._matmul(rhs)

    def _transpose_nonbatch(self) -> "Counted":
        return Counted(self.tensor.mT)


def streams(batch: int = 1) -> SampleStreams:
    return SampleStreams(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize("method", ITERATIVE)
def test_products_are_those_made(method, shape):
    metric = pb.PullbackMetric(Counted(with_spectrum(geometric(60, 0.3), *shape)[None]))
    for find in (find_pairs, lambda *given: solve(*given)[0]):
        Counted.columns = 0
        with torch.no_grad():
            pairs = find(metric, Request(3, method), streams())
        assert pairs.converged.all()
        assert pairs.n_products == Counted.columns


@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
def test_products_of_other_operators_and_one_certification(method):
    J = with_spectrum(geometric(60, 0.5), 60, 60)
    Counted.columns = 0
    with torch.no_grad():
        pairs = find_pairs(Counted((J.mT @ J)[None]), Request(3, method), streams())
    assert pairs.n_products == Counted.columns
    if method == "lanczos":
        assert pairs.n_products == pairs.iterations + 3


@pytest.mark.parametrize("which", ["smallest", "both"])
def test_the_other_end_of_a_metric(which):
    J = with_spectrum(torch.linspace(1, 2, 40), 40, 40)
    pairs = pb.eigsh(pb.PullbackMetric(Counted(J)), 3, which=which)
    exact = torch.linalg.eigvalsh(J.mT @ J).flip(-1)
    expected = exact[-3:] if which == "smallest" else exact[[0, 1, -1]]
    torch.testing.assert_close(pairs.values, expected)
    # Each product with the metric is one with J and one with its transpose.
    assert pairs.n_products == 2 * (pairs.iterations + 3)


def test_values_that_rounding_hides_are_zero_for_metrics_only():
    J = with_spectrum(geometric(2, 0.5), 6, 9)
    with pytest.warns(pb.RankWarning):
        assert (pb.eigsh(pb.PullbackMetric(J), 3, "lanczos").values[2:] == 0).all()
    indefinite = DenseLinearOperator(torch.diag(torch.tensor([-1.0, -1e-30, 2.0])))
    assert pb.eigsh(indefinite, 3).values.tolist() == [2.0, pytest.approx(-1e-30, abs=1e-6), -1.0]


def test_what_a_solver_finishes_unconverged_goes_on(monkeypatch):
    J = with_spectrum(geometric(30, 0.5), 30, 40)[None]
    exact = SOLVERS["golub-kahan"]

    def spoilt(metric, request, streams):
        result = exact(metric, request, streams)
        spoilt = torch.rand(1, 40, request.k, dtype=torch.float64)
        return replace(result, candidates=Candidates(spoilt))

    monkeypatch.setitem(SOLVERS, "golub-kahan", spoilt)
    pairs = pb.eigsh(pb.PullbackMetric(J), 3, "golub-kahan")
    assert pairs.converged.all()
    torch.testing.assert_close(pairs.values[0], geometric(3, 0.5))


def test_dual_does_the_primal_work_of_a_batch_once(monkeypatch):
    net = nn.Sequential(nn.Linear(4096, 130), nn.Tanh()).eval()
    encoder, x = pb.as_map(net, "mean"), torch.rand(8, 4096)
    sizes = []

    def noting(function, x, *others):
        sizes.append(len(x))
        return linearize(function, x, *others)

    with monkeypatch.context() as patch:
        patch.setattr("pullback.operators.linearize", noting)
        scores = pb.score(encoder, x, method="dual")
    # Whatever it takes at a time; where products are replayed, the same is done for each part.
    assert sizes == [8] or is_launch_bound(x)
    alone = pb.score(encoder, x[5:6], method="dual")
    torch.testing.assert_close(scores.eigenvalues[5:6], alone.eigenvalues)


def test_dual_takes_samples_together_as_far_as_the_device_has_room(monkeypatch):
    rows, columns, groups = 3, max_block(torch.device("cpu")) // 4, []

    def decompose(gram: Tensor) -> tuple[Tensor, Tensor]:
        groups.append(len(gram))
        return descending_eigh(gram)

    monkeypatch.setattr("pullback.eigen.dual.descending_eigh", decompose)
    J = torch.rand(3, rows, columns)
    pairs = pb.eigsh(pb.PullbackMetric(J), 1, "dual")
    exact = torch.linalg.svdvals(J.cpu().double())[:, :1].square()
    torch.testing.assert_close(pairs.values.double(), exact, rtol=1e-5, atol=0)
    assert groups == ([1, 1, 1] if J.device.type == "cpu" else [3])

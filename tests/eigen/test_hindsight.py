"""Steps that take lengths on trust, as on a GPU, against those that look at each; on any device."""

import pytest
import torch

import pullback as pb
from pullback.eigen import golub_kahan
from pullback.eigen.bidiagonalisation import Bidiagonalisation
from pullback.eigen.hindsight import Hindsight
from tests.eigen.test_eigsh import HARD, check, geometric, with_spectrum

DTYPES = [torch.float32, torch.float64]


@pytest.fixture
def trust(monkeypatch):
    """Sets whether steps trust lengths."""

    def choose(trusting: bool) -> None:
        monkeypatch.setattr(golub_kahan, "Hindsight", lambda trusting: Hindsight(chosen[0]))
        chosen[:] = [trusting]

    chosen: list[bool] = []
    return choose


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_hard_spectra_come_out_as_if_every_length_were_looked_at(trust, dtype):
    for spectrum in HARD.values():
        J = torch.stack([with_spectrum(s, 30, 50) for s in (spectrum, geometric(25, 0.6))])
        J = J.to(dtype)
        found = []
        for trusting in (False, True):
            trust(trusting)
            found.append(pb.eigsh(pb.PullbackMetric(J), 5, "golub-kahan"))
            check(pb.PullbackMetric(J), J, found[-1], 5)
        values = [pairs.values for pairs in found]
        rounding = 100 * torch.finfo(dtype).eps
        largest = spectrum.max().item()
        torch.testing.assert_close(*values, rtol=rounding, atol=rounding * largest)
        assert found[0].iterations.tolist() == found[1].iterations.tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_is_looked_at_where_nothing_vanishes(trust, monkeypatch, weighted):
    looks = []
    real = Bidiagonalisation._is_in_trouble

    def counted(process, length):
        looks.append(process.lengths.are_checked)
        return real(process, length)

    monkeypatch.setattr(Bidiagonalisation, "_is_in_trouble", counted)
    J = torch.stack([with_spectrum(geometric(40, r), 40, 60) for r in (0.5, 0.8)])
    M = with_spectrum(geometric(40, 0.95), 40, 40)
    metric = pb.PullbackMetric(J, (M.mT @ M).expand(2, 40, 40) if weighted else None)
    products = []
    for trusting in (False, True):
        looks.clear()
        trust(trusting)
        pairs = pb.eigsh(metric, 3, "golub-kahan")
        products.append(pairs.n_products)
        assert len(looks) == pairs.iterations.max()
        assert all(look is not trusting for look in looks)
    assert products[0] == products[1]


def test_steps_are_taken_anew_where_a_vector_vanished(trust):
    J = torch.stack([with_spectrum(s, 30, 50) for s in (geometric(3, 0.5), geometric(30, 0.7))])
    products = []
    for trusting in (False, True):
        trust(trusting)
        with pytest.warns(pb.RankWarning):
            products.append(pb.eigsh(pb.PullbackMetric(J), 5, "golub-kahan").n_products)
    assert products[0] < products[1] <= products[0] + 2 * (5 + 1)  # those until the first check


def test_restarts_on_trust(trust):
    spectra = (geometric(120, 0.95), torch.cat([torch.full((3,), 2.0), geometric(117, 0.9)]))
    J = torch.stack([with_spectrum(s, 120, 200, seed) for seed, s in enumerate(spectra)])
    streams = pb.sampling.SampleStreams(2, torch.Generator().manual_seed(0))
    trust(True)
    request = golub_kahan.Request(4, tol=1e-6, max_basis=20)
    with torch.no_grad():
        result = golub_kahan.golub_kahan(pb.PullbackMetric(J), request, streams)
    assert result.finished is not None
    assert result.finished.all()
    assert (result.iterations > 20).any()
    assert result.candidates.images is not None
    values = result.candidates.images.square().sum(-2)
    torch.testing.assert_close(values, torch.stack([s[:4] for s in spectra]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_with_its_sample(trust, value):
    J = torch.stack([with_spectrum(geometric(30, 0.7), 30, 50) for _ in range(3)])
    metric = pb.PullbackMetric(J)
    product, calls = metric.jacobian._matmul, [0]

    def spoilt(rhs):
        calls[0] += 1
        result = product(rhs)
        if calls[0] > 4:
            result[1] = value
        return result

    metric.jacobian._matmul = spoilt
    streams = pb.sampling.SampleStreams(3, torch.Generator().manual_seed(0))
    trust(True)
    with torch.no_grad(), pytest.raises(ValueError, match=r"derivative is NaN .* in sample 1"):
        golub_kahan.golub_kahan(metric, golub_kahan.Request(4), streams)

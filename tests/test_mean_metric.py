"""The average metric of a data set against the mean of dense ones."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal
from torch.utils.data import DataLoader, TensorDataset

import pullback as pb
from tests.conftest import SmoothEncoder

# linear_operator chooses rows with sparse matrices.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

N, D = 10, 3
DTYPES = [torch.float32, torch.float64]


def encoder_and_data(dtype: torch.dtype = torch.float64) -> tuple[SmoothEncoder, Tensor]:
    torch.manual_seed(5)
    return SmoothEncoder(N, D, 12, dtype=dtype), torch.rand(11, 2, 5, dtype=dtype)


def mean_of(metric: pb.PullbackMetric) -> Tensor:
    return metric.to_dense().double().mean(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("with_decoder", [True, False])
def test_products_are_the_mean_of_those_of_all_samples(with_decoder, captured, dtype):
    net, x = encoder_and_data(dtype)
    decoder = nn.Linear(D, 7, dtype=dtype) if with_decoder else None

    def branching(x: Tensor) -> tuple[Tensor, Tensor]:
        return net(x) if captured or bool(x.isfinite().all()) else net(0 * x)

    encoder = pb.as_map(branching, "mean_logvar")
    exact = mean_of(pb.expected_metric(encoder, x, decoder))
    metric = pb.mean_metric(encoder, [x[:4], x[4:5], x[5:]], decoder)
    assert metric.shape == (N, N)
    assert metric.dtype == dtype
    assert metric.batch_shape == ()
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (1e-7, 1e-9)

    def same(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)

    same(metric.to_dense(), exact)
    V = torch.rand(3, N, 2, dtype=dtype)
    for columns in (V[0, :, 0], V[0], V):
        same(metric @ columns, exact @ columns.double())
    same(metric.mT @ V[0], exact @ V[0].double())
    same(metric.diagonal(), exact.diagonal())
    same(metric.trace(), exact.trace())
    same(metric[2:5, 1:].to_dense(), exact[2:5, 1:])
    same(metric[torch.tensor([0, 3]), torch.tensor([1, 1])], exact[[0, 3], [1, 1]])
    same(metric.expand(2, N, N) @ V[:2], exact @ V[:2].double())
    shifted = metric.add_diagonal(torch.tensor(0.5, dtype=dtype))
    same(
        shifted.solve(V[0]), torch.linalg.solve(exact + 0.5 * torch.eye(N).double(), V[0].double())
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["auto", "lanczos", "lobpcg", "dual", "golub-kahan", "nystrom"])
def test_spectra(method, dtype):
    net, x = encoder_and_data(dtype)
    encoder = pb.as_map(net, "mean_logvar")
    exact = mean_of(pb.expected_metric(encoder, x))
    metric = pb.mean_metric(encoder, [(x[:6], torch.arange(6)), (x[6:], torch.arange(5))])
    pairs = pb.eigsh(metric, 3, method)
    values = torch.linalg.eigvalsh(exact).flip(-1)[:3]
    torch.testing.assert_close(pairs.values.double(), values, rtol=1e-4, atol=0.0)
    assert pairs.converged.all()
    residuals = exact @ pairs.vectors.double() - pairs.vectors.double() * pairs.values.double()
    assert residuals.norm(dim=0).max() < 1e-3 * values[0]


def test_traces_and_diagonals():
    net, x = encoder_and_data()
    encoder = pb.as_map(net, "mean_logvar")
    exact = mean_of(pb.expected_metric(encoder, x))
    metric = pb.mean_metric(encoder, x.split(4))
    torch.testing.assert_close(pb.trace(metric).value, exact.trace())
    estimate = pb.trace(metric, probes=8)
    assert (estimate.value - exact.trace()).abs() <= 3 * estimate.std_error
    torch.testing.assert_close(pb.traces.diagonal(metric).value, exact.diagonal())
    values = torch.linalg.eigvalsh(exact).clamp(min=1e-300)
    p = values / values.sum()
    torch.testing.assert_close(pb.entropy(metric).value, -(p * p.log()).sum(), rtol=1e-2, atol=0.0)


class Conditional(nn.Module):
    """Correlated noise, and a label."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmoothEncoder(N, 3, 8, dtype=torch.float64)
        self.embed = nn.Embedding(4, N, dtype=torch.float64)

    def forward(self, x: Tensor, label: Tensor) -> Distribution:
        mean, y = self.net(x.flatten(1) + self.embed(label))
        L = y[:, :2, None] * y[:, None, 1:].tril() + torch.eye(2, dtype=x.dtype)
        return MultivariateNormal(mean[:, :2], scale_tril=L)


def test_a_shuffled_loader_of_a_conditional_encoder():
    encoder, x = pb.as_map(Conditional()), encoder_and_data()[1]
    labels = torch.arange(11) % 4
    loader = DataLoader(TensorDataset(x, labels), batch_size=3, shuffle=True)
    metric = pb.mean_metric(encoder, loader, given=(1,))
    exact = mean_of(pb.expected_metric(encoder, x, given=(labels,)))
    torch.testing.assert_close(metric.to_dense(), exact)
    torch.testing.assert_close(metric.to_dense(), exact)


def test_gradients_by_the_parameters():
    net, x = encoder_and_data()
    encoder, v = pb.as_map(net, "mean_logvar"), torch.rand(N, 1, dtype=torch.float64)
    wanted = [net.hidden.weight, net.heads.bias]

    def mean_product() -> Tensor:
        return (pb.expected_metric(encoder, x) @ v).mean(0)

    metric = pb.mean_metric(encoder, [x[:8], x[8:]])
    twice = metric.add_diagonal(torch.ones(N, dtype=torch.float64)) @ v - v
    for product in (metric @ v, twice):
        found = torch.autograd.grad(product.square().sum(), wanted)
        expected = torch.autograd.grad(mean_product().square().sum(), wanted)
        torch.testing.assert_close(found, expected)
    # As parameters are now.
    with torch.no_grad():
        net.hidden.weight *= 2
    torch.testing.assert_close(metric @ v, mean_product())


def test_copies():
    net, x = encoder_and_data()
    metric = pb.mean_metric(pb.as_map(net, "mean_logvar"), [x])
    with torch.no_grad():  # what is remembered with a graph of autograd cannot be copied
        exact = metric.to_dense()
    for copied in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.to("cpu")):
        torch.testing.assert_close(copied.to_dense(), exact)
    with pytest.raises(
        ValueError, match=r"the average is of data in torch\.float64 .* make one of"
    ):
        metric.to(torch.float32)


def test_data_that_cannot_be_read_again():
    net, x = encoder_and_data()
    encoder = pb.as_map(net, "mean_logvar")
    once = [
        (batch for batch in x.split(4)),
        iter([x]),
        map(torch.clone, [x]),
        zip([x], [x], strict=True),
    ]
    for batches in once:
        with pytest.raises(TypeError, match=r"can be read only once; write list\(batches\)"):
            pb.mean_metric(encoder, batches)
    with pytest.raises(TypeError, match=r"got Tensor; write \[x\] for a single batch"):
        pb.mean_metric(encoder, x)
    with pytest.raises(TypeError, match="a list or a DataLoader of batches, got int"):
        pb.mean_metric(encoder, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must hold at least one batch, got none"):
        pb.mean_metric(encoder, [])
    with pytest.raises(TypeError, match=r"the first item of its tuple, must be a torch tensor"):
        pb.mean_metric(encoder, [{"image": x}])
    with pytest.raises(ValueError, match=r"x and what given=\(1,\) names, got 1 items"):
        pb.mean_metric(encoder, [x], given=(1,))


@pytest.mark.parametrize("given", [1, (torch.zeros(11),), ("label",)])
def test_places_are_integers(given):
    net, x = encoder_and_data()
    with pytest.raises(TypeError, match=r"a tuple of places in a batch, such as \(1,\) for labels"):
        pb.mean_metric(pb.as_map(net, "mean_logvar"), [x], given=given)


class Changing:
    """Other batches each time that it is read."""

    def __init__(self, readings: list[list[Tensor]]) -> None:
        self.readings = readings

    def __iter__(self):
        return iter(self.readings.pop(0))


def test_data_that_change_are_refused():
    net, x = encoder_and_data()
    encoder, v = pb.as_map(net, "mean_logvar"), torch.rand(N, 1, dtype=torch.float64)
    flipped = torch.cat([x[:3].flip(-1), x[3:]])
    for other, words in (([x[:-1]], "10 samples, and 11 before"), ([flipped], "others before")):
        same = [x[5:], x[:5]]  # in another order
        metric = pb.mean_metric(encoder, Changing([[x], [x], same, other]))
        torch.testing.assert_close(metric @ v, metric @ v)
        with pytest.raises(ValueError, match=f"the same samples whenever .* but gave {words}"):
            _ = metric @ v


def test_no_batch_is_kept():
    """Beyond the one at work: the checksums of a call would hold them all."""
    import gc
    import weakref

    net, _ = encoder_and_data()
    alive: list[weakref.ref] = []
    most = 0

    class Made:
        def __iter__(self):
            nonlocal most
            for i in range(6):
                x = torch.rand(
                    4, N, dtype=torch.float64, generator=torch.Generator().manual_seed(i)
                )
                alive.append(weakref.ref(x))
                yield x
                del x
                gc.collect()
                most = max(most, sum(ref() is not None for ref in alive))

    metric = pb.mean_metric(pb.as_map(net, "mean_logvar"), Made())
    pb.eigsh(metric, 2)
    assert most <= 3

"""Replayed products: their bookkeeping anywhere, CUDA graphs and their precision on a GPU."""

import copy

import pytest
import torch
from torch import nn

import pullback as pb
from pullback.products import max_block
from pullback.products.captured import CapturedLinearization
from pullback.products.cuda_graphs import Intermediates, ReplayedProduct
from pullback.products.devices import RECORDERS
from pullback.products.parts import Part
from tests.conftest import ConvEncoder, SmoothEncoder

WEIGHTS = (False, False, True)


def product(intermediates: Intermediates, vectors: torch.Tensor) -> torch.Tensor:
    matrix, factor, weight = intermediates
    return factor * vectors @ matrix * weight


def again(work):
    """A recording that does the work again, into the same tensor, as a CUDA graph does."""
    result = work()

    def replay():
        return result.copy_(work())

    return replay


class Recorder:
    """Counts what it records."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, work):
        self.count += 1
        return again(work)


WEIGHT = torch.randn(5, generator=torch.Generator().manual_seed(9))


def batch(seed: int, size: int = 3, weight: torch.Tensor = WEIGHT) -> Intermediates:
    generator = torch.Generator().manual_seed(seed)
    return Intermediates([torch.randn(4, 5, generator=generator), size, weight])


def test_replays_are_the_product_whatever_batch_comes_next():
    record = Recorder()
    replayed = ReplayedProduct(product, WEIGHTS, record)
    one, other, smaller = batch(0), batch(1), batch(2, 2)
    results = []
    for step in range(30):
        intermediates = (one, one, one, other, smaller, one)[step % 6]
        with torch.inference_mode(step % 4 > 1):
            vectors = torch.randn(1 + step % 2, intermediates[1], 4)
            results.append((replayed(intermediates, vectors), product(intermediates, vectors)))
        if step == 20:
            one = batch(3)  # takes the place of what was copied before
    assert record.count == 3  # two numbers of columns, and those of the smaller batch
    for found, expected in results:  # and none was written over since
        torch.testing.assert_close(found, expected)


def test_only_the_latest_shapes_are_kept():
    replayed = ReplayedProduct(product, WEIGHTS, again)
    for size in range(1, 20):
        intermediates = batch(size, size)
        for _ in range(6):
            vectors = torch.randn(1, size, 4)
            torch.testing.assert_close(
                replayed(intermediates, vectors), product(intermediates, vectors)
            )
    assert len(replayed._replays) == len(replayed._copies) == 12


def test_layouts_of_vectors_make_no_difference():
    record = Recorder()
    replayed, intermediates = ReplayedProduct(product, WEIGHTS, record), batch(0)
    for vectors in (
        torch.randn(1, 3, 4),
        torch.randn(3, 4, 1).movedim(-1, 0),
        torch.randn(3, 4).expand(1, 3, 4),
        torch.randn(1, 4, 3).mT,
        torch.randn(5, 3, 4)[2:3],
        torch.randn(3, 1, 4).transpose(0, 1),
    ):
        torch.testing.assert_close(
            replayed(intermediates, vectors), product(intermediates, vectors)
        )
    assert record.count == 1
    # Neither do strides along a dimension of one entry.
    matrix, *others = intermediates
    for shape in ((1, 4, 5), (4, 1, 5)):
        like = Intermediates([matrix.view(shape).transpose(0, 1).reshape(4, 5), *others])
        vectors = torch.randn(1, 3, 4)
        torch.testing.assert_close(replayed(like, vectors), product(like, vectors))
    assert record.count == 1


def test_weights_are_read_where_they_are():
    record = Recorder()
    replayed = ReplayedProduct(product, WEIGHTS, record)
    weight = torch.ones(5)

    def check(intermediates):
        for _ in range(3):
            vectors = torch.randn(1, 3, 4)
            torch.testing.assert_close(
                replayed(intermediates, vectors), product(intermediates, vectors)
            )

    check(batch(0, weight=weight))
    (replay,) = replayed._replays.values()
    assert replay._copy.own[2].data_ptr() == weight.data_ptr()
    weight *= 2  # in place: the recording holds
    check(batch(1, weight=weight))
    assert record.count == 1
    check(batch(1, weight=weight.clone()))
    assert record.count == 2
    weight.data = torch.full((5,), 3.0)
    check(batch(2, weight=weight))
    assert record.count == 3
    check(batch(2, weight=weight[:].unsqueeze(0)[0]))  # a view of the same numbers
    assert record.count == 3


def refused(work):
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def stale(work):
    result = work()
    return lambda: result + 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [(refused, "operation not permitted when stream is capturing"), (stale, "a replay differs")],
)
def test_what_cannot_be_recorded_goes_on_as_it_is(record, reason, caplog):
    tried = []

    def counted(work):
        tried.append(work)
        return record(work)

    replayed = ReplayedProduct(product, WEIGHTS, counted)
    with caplog.at_level("INFO", logger="pullback"):
        for step in range(12):  # three batches of two sizes
            intermediates = batch(step // 4, 3 + step // 8)
            vectors = torch.randn(2, 3, 4)
            torch.testing.assert_close(
                replayed(intermediates, vectors), product(intermediates, vectors)
            )
    assert len(tried) == len(caplog.records) == 1
    assert reason in caplog.text
    assert "and more" not in caplog.text


@pytest.fixture
def recorder(monkeypatch, device):
    """Products are recorded, as if on a GPU."""
    record = Recorder()
    monkeypatch.setitem(RECORDERS, device.type, record)
    return record


def test_parts_of_a_small_batch_are_products_of_the_whole(recorder):
    encoder = SmoothEncoder(20, 3, dtype=torch.float64).requires_grad_(False)
    J = pb.jacobian(pb.as_map(encoder, returns="mean_logvar"), torch.rand(6, 20).double())
    v, u = torch.randn(6, 20, 2).double(), torch.randn(6, 6, 2).double()
    expected = J @ v, J.mT @ u
    for samples in (torch.tensor([4, 1]), slice(1, 5, 2), torch.tensor([5])):
        part = J[samples]
        assert isinstance(part._linearization(), Part)
        torch.testing.assert_close(part @ v[samples], expected[0][samples])
        torch.testing.assert_close(part.mT @ u[samples], expected[1][samples])
        torch.testing.assert_close(part[:1] @ v[samples][:1], expected[0][samples][:1])
        assert isinstance(part[:1]._linearization(), Part)
    linearization = J._linearization()
    assert isinstance(linearization, CapturedLinearization)
    for product in (linearization._graphs.jvp, linearization._graphs.vjp):
        assert isinstance(product, ReplayedProduct)
        sizes = {len(replay._vectors[0]) for replay in product._replays.values()}
        assert sizes == {6}


def test_a_sample_may_come_twice_in_a_part(recorder):
    encoder = SmoothEncoder(20, 3, dtype=torch.float64).requires_grad_(False)
    J = pb.jacobian(pb.as_map(encoder, returns="mean_logvar"), torch.rand(6, 20).double())
    dense = J.to_dense()
    for samples, again in (([0, 0], [1, 1, 0]), ([3, -1, 5], slice(1, 3)), ([1, 4], [1, 1])):
        part, expected = J[samples], dense[samples]
        v, u = torch.randn(len(samples), 20, 2).double(), torch.randn(len(samples), 6, 2).double()
        torch.testing.assert_close(part @ v, expected @ v)
        torch.testing.assert_close(part.mT @ u, expected.mT @ u)
        part, expected = part[again], expected[again]
        v = torch.randn(len(expected), 20, 2).double()
        torch.testing.assert_close(part @ v, expected @ v)


def test_scores_by_replays_are_those_without(recorder, monkeypatch, device):
    # In float64, as weights are not packed for oneDNN then.
    encoder = nn.Sequential(nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 16)).double()
    batches = torch.rand(3, 8, 30).double()
    own = pb.as_map(encoder)
    replayed = [pb.score(own, x, k=3, method="golub-kahan") for x in batches]
    assert 0 < recorder.count <= 6  # not for every batch
    monkeypatch.delitem(RECORDERS, device.type)
    other = pb.as_map(copy.deepcopy(encoder))
    for x, scores in zip(batches, replayed, strict=True):
        alone = pb.score(other, x, k=3, method="golub-kahan")
        torch.testing.assert_close(scores.eigenvalues, alone.eigenvalues)
        torch.testing.assert_close(scores.entropy, alone.entropy)


def test_a_block_is_larger_where_there_is_more_memory(monkeypatch):
    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    assert max_block(torch.device("cpu")) == 2**19
    assert max_block(torch.device("cuda", 77)) == 80 * 2**20


@pytest.fixture
def replaying(device):
    """A device whose products are replayed."""
    if device.type not in RECORDERS:
        pytest.skip("needs a device whose products are replayed")
    return device


@pytest.mark.parametrize("columns", [1, 6])
def test_replayed_products_against_those_in_float64(columns, replaying):
    encoder = ConvEncoder().eval().requires_grad_(False)
    there = pb.as_map(copy.deepcopy(encoder).to(replaying), returns="mean_logvar")
    exact_map = pb.as_map(encoder.double(), returns="mean_logvar")
    for _ in range(2):
        x = torch.rand(16, 3, 32, 32)
        exact, found = pb.jacobian(exact_map, x.double()), pb.jacobian(there, x.to(replaying))
        for _ in range(4):  # the later ones are replays
            v, u = torch.randn(16, exact.shape[2], columns), torch.randn(16, 32, columns)
            for product, expected in (
                (found @ v.to(replaying), exact @ v.double()),
                (found.mT @ u.to(replaying), exact.mT @ u.double()),
            ):
                error = (product.to(expected) - expected).abs().max()
                assert error <= 1e-5 * expected.abs().max()
    linearization = found._linearization()
    assert isinstance(linearization, CapturedLinearization)
    for replayed in (linearization._graphs.jvp, linearization._graphs.vjp):
        assert isinstance(replayed, ReplayedProduct)
        assert replayed._replays


def test_scores_of_a_device_are_those_of_a_cpu(replaying):
    encoder = ConvEncoder().eval()
    x = torch.rand(8, 3, 32, 32)
    here, there = (
        pb.score(pb.as_map(encoder.to(where), returns="mean_logvar"), x.to(where), k=3)
        for where in ("cpu", replaying)
    )
    for name in ("eigenvalues", "trace", "entropy"):
        torch.testing.assert_close(
            getattr(there, name).cpu(), getattr(here, name), rtol=1e-4, atol=1e-4
        )
    assert there.converged.all()

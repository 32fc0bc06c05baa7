"""Replayed products: their bookkeeping anywhere, CUDA graphs and their precision on a GPU."""

import copy

import pytest
import torch

import pullback as pb
from pullback.products.captured import CapturedLinearization
from pullback.products.cuda_graphs import Intermediates, ReplayedProduct
from tests.conftest import ConvEncoder


def product(intermediates: Intermediates, vectors: torch.Tensor) -> torch.Tensor:
    matrix, factor = intermediates
    return factor * vectors @ matrix


def again(work):
    """A recording that does the work again, into the same tensor, as a CUDA graph does."""
    result = work()

    def replay():
        return result.copy_(work())

    return replay


def batch(seed: int, size: int = 3) -> Intermediates:
    generator = torch.Generator().manual_seed(seed)
    return Intermediates([torch.randn(4, 5, generator=generator), size])


def test_replays_are_the_product_whatever_batch_comes_next():
    recorded = []

    def record(work):
        recorded.append(work)
        return again(work)

    replayed = ReplayedProduct(product, record)
    one, other, smaller = batch(0), batch(1), batch(2, 2)
    results = []
    for step in range(30):
        intermediates = (one, one, one, other, smaller, one)[step % 6]
        with torch.inference_mode(step % 4 > 1):
            vectors = torch.randn(1, intermediates[1], 4)
            results.append((replayed(intermediates, vectors), product(intermediates, vectors)))
        if step == 20:
            one = batch(3)  # takes the place of what was copied before
    assert len(recorded) == 2  # for each of the two shapes that came often
    for found, expected in results:  # and none was written over since
        torch.testing.assert_close(found, expected)


def test_only_the_latest_shapes_are_kept():
    replayed = ReplayedProduct(product, again)
    for size in range(1, 8):
        intermediates = batch(size, size)
        for _ in range(6):
            vectors = torch.randn(1, size, 4)
            torch.testing.assert_close(
                replayed(intermediates, vectors), product(intermediates, vectors)
            )
    assert len(replayed._replays) == 4


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
    replayed, intermediates = ReplayedProduct(product, record), batch(0)
    with caplog.at_level("INFO", logger="pullback"):
        for _ in range(10):
            vectors = torch.randn(2, 3, 4)
            torch.testing.assert_close(
                replayed(intermediates, vectors), product(intermediates, vectors)
            )
    assert len(caplog.records) == 1
    assert reason in caplog.text
    assert "and more" not in caplog.text


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("columns", [1, 6])
def test_products_on_a_gpu_against_those_in_float64(columns):
    encoder = ConvEncoder().eval()
    x = torch.rand(16, 3, 32, 32)
    on_gpu = pb.as_map(copy.deepcopy(encoder).cuda(), returns="mean_logvar")
    J = pb.jacobian(pb.as_map(encoder.double(), returns="mean_logvar"), x.double())
    for _ in range(2):
        x = torch.rand_like(x)
        J = pb.jacobian(J.fn, x.double())
        G = pb.jacobian(on_gpu, x.cuda())
        for _ in range(8):  # the later ones are replays
            v = torch.randn(16, J.shape[2], columns)
            u = torch.randn(16, J.shape[1], columns)
            for found, exact in (
                (G @ v.cuda(), J @ v.double()),
                (G.mT @ u.cuda(), J.mT @ u.double()),
            ):
                error = (found.cpu() - exact).abs().max()
                assert error <= 1e-5 * exact.abs().max()
    linearization = G._linearization()
    assert isinstance(linearization, CapturedLinearization)
    for product in (linearization._graphs.jvp, linearization._graphs.vjp):
        assert isinstance(product, ReplayedProduct)
        assert product._replays


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_on_a_cpu():
    encoder = ConvEncoder().eval()
    x = torch.rand(8, 3, 32, 32)
    scores = [
        pb.score(pb.as_map(encoder.to(device), returns="mean_logvar"), x.to(device), k=3)
        for device in ("cpu", "cuda")
    ]
    for name in ("eigenvalues", "trace", "entropy"):
        on_cpu, on_gpu = (getattr(each, name).cpu() for each in scores)
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)
    assert scores[1].converged.all()

"""The benchmark's peers against dense float64, its gauges, and a whole run on a tiny encoder."""

import copy
import sys

import pytest
import torch
from torch import nn

from models import datasets, training
from models.datasets import Dataset
from models.vae import ConvVAE
from studies import benchmark
from studies.benchmark import comparison, libraries, peers, scaling, timing
from studies.benchmark.comparison import Row
from studies.benchmark.scaling import Memory, Parts
from studies.benchmark.targets import targets

K = 3


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = ConvVAE((3, 8, 8), filters=(6, 8), units=(16, 8), latent=6)
    # Untrained, but not flat: the columns fall off.
    for layer in (vae.mean, vae.logvar):
        assert isinstance(layer, nn.Linear)
        layer.weight.data *= 0.6 ** torch.arange(6)[:, None]
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exact(vae, x):
    J = peers.rows_by_autograd(comparison.stacked(copy.deepcopy(vae).double()), x.double())
    return peers.of_spectrum(torch.linalg.eigvalsh(J.mT @ J), K)


def values_error(found, exact) -> float:
    error = comparison.errors([found], [exact])["values"]
    assert error is not None
    return error


def test_truth_is_dense(vae, x, exact):
    true = comparison.truth(copy.deepcopy(vae).double(), x)
    for name in ("trace", "entropy"):
        torch.testing.assert_close(getattr(true, name), getattr(exact, name))
    assert true.values is not None
    torch.testing.assert_close(true.values[:, :K], exact.values)


@pytest.mark.parametrize("method", [peers.authors_way, peers.by_jacrev])
def test_whole_spectra(vae, x, exact, method):
    errors = comparison.errors([method(comparison.stacked(vae), x, K)], [exact])
    assert all(error is not None and error < 1e-4 for error in errors.values())


@pytest.mark.parametrize("solver", ["arpack", "propack", "lobpcg", "eigsh"])
@pytest.mark.parametrize("ours", [False, True])
def test_scipy(vae, x, exact, solver, ours):
    encoder = comparison.encoder_of(vae) if ours else None
    found = peers.by_scipy(comparison.stacked(vae), x, K, solver, encoder)
    assert found.products is not None
    assert found.products > K
    assert values_error(found, exact) < 1e-3


@pytest.mark.parametrize(
    ("package", "name"),
    [("primme", "by_primme"), ("cola", "by_cola"), ("skerch", "by_skerch"), ("matfree", "matfree")],
)
def test_other_libraries(vae, x, exact, package, name):
    pytest.importorskip(package)
    job = libraries.ByMatfree(vae) if name == "matfree" else getattr(libraries, name)
    found = job(comparison.stacked(vae), x, K)
    assert values_error(found, exact) < 1e-3


def test_a_library_that_is_not_installed_is_named(vae, x, exact, monkeypatch):
    monkeypatch.setitem(sys.modules, "primme", None)
    job = comparison.Method("PRIMME", lambda x: libraries.by_primme(comparison.stacked(vae), x, 2))
    (row,) = comparison.compare([job], vae, [x], [exact])
    assert row.sample == "not installed"
    assert row.mean is None


def test_lanczos_of_linear_operator(vae, x, exact):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = peers.by_linear_operator(comparison.stacked(vae), x, K, comparison.encoder_of(vae))
    assert values_error(found, exact) < 1e-3


def test_products_of_an_image(vae, x):
    J = peers.rows_by_autograd(comparison.stacked(vae), x[:1])[0]
    products = peers.ImageProducts(comparison.stacked(vae), x[0])
    v, u = torch.rand(J.shape[1]), torch.rand(J.shape[0])
    torch.testing.assert_close(products.jvp(v), J @ v)
    torch.testing.assert_close(products.vjp(u), J.mT @ u)
    torch.testing.assert_close(products.metric(v), J.mT @ (J @ v))
    assert products.count == 4


def test_dense_takes_the_largest_square_in_time(vae, x):
    J = peers.rows_by_autograd(comparison.stacked(vae), x[:1])[0]
    square, _, found = peers.dense_eigh(J, x.shape[1:], K, 60.0, timing.clock)
    assert square.shape == J.shape
    torch.testing.assert_close(found.trace, J.square().sum().reshape(1))
    square, _, _ = peers.dense_eigh(J, x.shape[1:], K, 0.0, timing.clock)
    assert square.shape[1] == 3


def test_gauges(tmp_path):
    assert timing.largest_tensor(lambda: torch.ones(3, 5) @ torch.ones(5, 7)) == 35
    assert timing.in_new_process(timing.peak_memory) > 2**20
    assert "torch" in timing.machine(torch.device("cpu"))
    result = timing.timed(lambda x: x + 1, [torch.zeros(2)] * 2, lambda: None)
    assert len(result.seconds) == len(result.results) == 2


def test_targets_are_met_missed_or_not_measured():
    rows = [
        Row("score", True, "", 20.0, 22.0),
        Row("the authors' way", False, "", 70.0, 70.0),
    ]
    parts = Parts(
        jvp=1.0, vjp=1.4, product=1.1, block=5.0, primal=2.0,
        inside=27.5, score=30.0, counted=20, forward=0.01,
    )  # fmt: skip
    judged = {t.name: t.met for t in targets(rows, parts, Memory(10, 20))}
    assert judged["complete score"] is True
    assert judged["score faster than the authors' way"] is False
    assert judged["score faster than dense eigh of G"] is None
    assert judged["Jᵀ u, one column"] is False
    assert judged["the solver's own arithmetic"] is True


def test_quick_run(vae, tmp_path, monkeypatch, capsys):
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(8, dtype=torch.int64)
    monkeypatch.setattr(datasets, "load", lambda name: Dataset(images, labels, images, labels))
    monkeypatch.setattr(benchmark, "BATCH", 4)
    for name, value in {"BATCH": 4, "BATCHES": (1, 4), "RANKS": (1, 5), "REPEATS": 1}.items():
        monkeypatch.setattr(scaling, name, value)
    training.save(vae, tmp_path / "vae.safetensors")
    out = tmp_path / "out"
    benchmark.benchmark(out=str(out), checkpoint=str(tmp_path / "vae.safetensors"), quick=True)
    assert {path.name for path in out.iterdir()} == {
        "table.md",
        *(f"{name}.{kind}" for name in ("accuracy", "scaling") for kind in ("png", "pdf")),
    }
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    for part in (
        "**score**",
        "linear_operator",
        "complete score",
        "| k | 1 |",
        "not measured",
        "within two",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device='gpu' is not one of 'cpu', 'cuda'"),
        (
            {"checkpoint": "vae.safetensors"},
            r"shape \(3, 8, 8\); the photographs have \(3, 64, 64\)",
        ),
    ],
)
def test_bad_arguments(vae, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    training.save(vae, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=message):
        benchmark.benchmark(out="out", **arguments)
    assert not (tmp_path / "out").exists()

"""What is counted without a GPU, what is made of it, and what is said where there is none."""

import sys

import pytest
import torch

import pullback as pb
from models.vae import ConvVAE
from pullback.products.captured import CapturedLinearization
from pullback.products.devices import RECORDERS
from studies.benchmark import cuda_check, estimate, tf32
from studies.benchmark.counting import Counts, count
from studies.benchmark.throughput import what_dominates
from studies.cli import main
from tests.conftest import SmoothEncoder

CPU = torch.device("cpu")


def counted(job, warm: int = 0) -> Counts:
    return count(job, CPU, warm)


def test_kernels_bytes_and_operations():
    a, b = torch.rand(4, 8), torch.rand(8, 2)
    found = counted(lambda: a @ b)
    assert found == Counts(launched=1, operations=2 * 4 * 8 * 2, bytes=4 * (32 + 16 + 8))
    with torch.inference_mode():
        assert counted(lambda: torch.nn.functional.linear(a, b.mT)).operations == 128


def test_views_and_memory_cost_nothing():
    a = torch.rand(4, 8)
    assert counted(lambda: (a.mT[2:].reshape(-1, 2, 4), torch.empty(3), a.detach())) == Counts()
    assert counted(lambda: a.mT.reshape(-1)).launched == 1
    assert counted(lambda: a.mul_(2)).launched == 1


def test_waits():
    a = torch.rand(4)
    for job in (
        lambda: a.sum().item(),
        lambda: bool((a > 0).all()),
        lambda: a.nonzero(),
        lambda: a[a > 0.5],
    ):
        assert counted(job).waits == 1
        with torch.inference_mode():
            assert counted(job).waits == 1


def test_uploads_are_counted_where_the_host_waits_for_them():
    a, there = torch.rand(4, device="cpu"), torch.device("meta")
    for job, uploads in (
        (lambda: a.to(there), 1),
        (lambda: torch.empty(4, device=there).copy_(a), 1),
        (lambda: a.to(there, non_blocking=True), 0),
        (lambda: torch.empty(4, device=there).copy_(a, non_blocking=True), 0),
    ):
        assert count(job, there, warm=0).uploads == uploads


def test_replays_count_as_what_was_recorded(monkeypatch):
    def record(work):
        result = work()
        return lambda: result.copy_(work())

    monkeypatch.setitem(RECORDERS, "cpu", record)
    encoder = SmoothEncoder(20, 3, dtype=torch.float64).requires_grad_(False)
    x = torch.rand(6, 20, dtype=torch.float64)
    J = pb.jacobian(pb.as_map(encoder, returns="mean_logvar"), x)
    v = torch.randn(6, 20, 1, dtype=torch.float64)
    found = counted(lambda: J @ v, warm=3)
    linearization = J._linearization()
    assert isinstance(linearization, CapturedLinearization)
    part, intermediates = linearization._graphs.parts[0], linearization._intermediates[0]
    alone = counted(lambda: part(*intermediates, v.squeeze(-1)))
    assert (found.replays, found.replayed) == (1, alone.launched)
    # Here a replay does the work again, which is counted too.
    assert found.operations == 2 * alone.operations > 0
    assert RECORDERS["cpu"] is record


def test_an_estimate_is_between_the_longest_part_and_their_sum():
    counts = Counts(1000, 10, 300, 25, 1, 10**12, 10**10)
    device = estimate.Device("one", 1e12, 1e10, 1e-6, 2e-6, 1e-6, 1e-5, share=0.5)
    found = estimate.estimate(counts, 100, device, images=200)
    assert found.arithmetic == pytest.approx(4)
    assert found.memory == pytest.approx(4)
    assert found.host == pytest.approx(2 * (1e-3 + 2e-5 + 3e-4 + 2.6e-4))
    assert found.least == pytest.approx(4)
    assert found.most == pytest.approx(8 + found.host)


def test_the_page_of_an_estimate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "BATCHES", (2, 3))
    monkeypatch.setattr(estimate, "EVENT", (3, 8, 8))
    small = ConvVAE((3, 8, 8), filters=(4,), units=(16, 16), latent=8).eval()
    monkeypatch.setattr(estimate, "spectral_vae", lambda: small)
    monkeypatch.setattr(estimate, "_countable_device", lambda: CPU)
    out = tmp_path / "cuda.md"
    estimate.cuda_estimate(out=str(out))
    text = out.read_text()
    assert text in capsys.readouterr().out
    for part in ("No GPU was at hand", "| 2 |", "| 3 |", "NVIDIA H100", "19962 images"):
        assert part in text


def test_numbers_of_tf32():
    x = torch.tensor([1 + 2**-10, 1 + 0.4 * 2**-10, -1 - 0.6 * 2**-10, 3e38, 0.0])
    expected = torch.tensor([1 + 2**-10, 1, -1 - 2**-10, 3e38, 0.0])
    torch.testing.assert_close(tf32.round_to_tf32(x), expected, rtol=2**-11, atol=0)
    assert torch.equal(tf32.round_to_tf32(x)[:3], expected[:3])
    assert torch.equal(tf32.round_to_tf32(x.double()), x.double())


def test_the_page_on_tf32(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tf32, "EVENT", (3, 8, 8))
    small = ConvVAE((3, 8, 8), filters=(8,), units=(64, 64), latent=24).eval()
    monkeypatch.setattr(tf32, "spectral_vae", lambda: small)
    out = tmp_path / "tf32.md"
    tf32.tf32(out=str(out), images=2)
    text = out.read_text()
    assert text in capsys.readouterr().out
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    full, once, twice = (float(line[5]) for line in lines)
    assert full < 1e-4 < once
    assert twice < once
    assert lines[0][6] == "2 of 2"
    assert lines[1][6] == "0 of 2"


def test_what_dominates():
    a, b = torch.rand(400, 400), torch.rand(4)
    busy, kernels = what_dominates(lambda: (a @ a, b + b))
    assert busy > 0
    assert "mm" in kernels[0][0]
    assert sum(share for _, share in kernels) == pytest.approx(1)


def test_what_is_said_of_tests():
    script = "print('....F'); print('FAILED tests/test_a.py::b - no'); print('1 failed, 4 passed')"
    said = cuda_check.run_tests([sys.executable, "-c", script])
    assert said == "1 failed, 4 passed\n\n- FAILED tests/test_a.py::b - no"
    script = "import sys; print('ERROR: none', file=sys.stderr)"
    assert cuda_check.run_tests([sys.executable, "-c", script]) == "ERROR: none"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
@pytest.mark.parametrize("study", ["cuda-check", "cuda-estimate"])
def test_one_sentence_where_there_is_no_gpu(study, tmp_path, capsys):
    assert main([study, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("python -m studies: cuda-")
    assert "CUDA device" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()

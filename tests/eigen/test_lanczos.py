"""Thick-restart Lanczos against dense float64 and scipy, at both ends of hard spectra."""

import pytest
import scipy.sparse.linalg
import torch
from linear_operator.operators import DenseLinearOperator
from torch import Tensor

import pullback as pb
from pullback.eigen.driver import find_pairs
from pullback.eigen.lanczos import ThickRestart, largest_component
from pullback.eigen.request import Request, check_request
from pullback.sampling import SampleStreams
from tests.eigen.test_eigsh import DTYPES, HARD, geometric, with_spectrum

ENDS = {"largest": (5, 0), "smallest": (0, 5), "both": (3, 2)}


def streams(batch: int, seed: int = 0) -> SampleStreams:
    return SampleStreams(batch, torch.Generator().manual_seed(seed))


def lanczos(A, k, tol, streams, which="largest", **settings) -> pb.EigenPairs:
    """Certified eigenpairs, by Lanczos on the operator itself."""
    request = Request(k, "lanczos", tol, which=which, **settings)
    return find_pairs(A, check_request(A, request), streams)


def psd(spectrum: Tensor, n: int, seed: int = 0) -> Tensor:
    J = with_spectrum(spectrum, n, n, seed)
    return J.mT @ J


def symmetric(spectrum: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues, of either sign."""
    n, g = len(spectrum), torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    matrix = q * spectrum.double() @ q.mT
    return (matrix + matrix.mT) / 2


def check(matrices: Tensor, pairs: pb.EigenPairs, high: int, low: int = 0, tol=1e-4) -> None:
    """Values, orthonormality, and that the residuals and ``converged`` say what is the case."""
    n, k, eps = matrices.shape[-1], high + low, torch.finfo(matrices.dtype).eps
    exact = torch.linalg.eigvalsh(matrices.double())
    exact = torch.cat([exact[:, n - high :], exact[:, :low]], dim=-1).sort(-1, descending=True)[0]
    norm = torch.linalg.matrix_norm(matrices.double(), 2).unsqueeze(-1)
    values, vectors = pairs.values.double(), pairs.vectors.double()
    noise = 8 * n * eps * norm
    assert ((values - exact).abs() <= 1e-5 * exact.abs() + noise).all()
    assert (values.diff(dim=-1) <= 0).all()
    identity = torch.eye(k, dtype=torch.float64)
    assert (vectors.mT @ vectors - identity).abs().max() <= 10 * eps * n
    assert (vectors.amax(-2) >= vectors.amin(-2).abs()).all()
    honest(matrices, pairs, tol)
    assert pairs.converged.all()


def honest(matrices: Tensor, pairs: pb.EigenPairs, tol: float = 1e-4) -> None:
    """The reported residuals are the true ones, and a converged pair has a small one."""
    eps = torch.finfo(matrices.dtype).eps
    norm = torch.linalg.matrix_norm(matrices.double(), 2).unsqueeze(-1)
    values, vectors = pairs.values.double(), pairs.vectors.double()
    residuals = (matrices.double() @ vectors - vectors * values.unsqueeze(-2)).norm(dim=-2)
    rounding = 4 * eps * norm
    assert ((residuals - pairs.residual_norms).abs() <= 0.01 * residuals + rounding).all()
    accepted = torch.maximum(tol * values.abs(), 32 * eps * norm)
    assert (residuals[pairs.converged] <= (1.01 * accepted + rounding)[pairs.converged]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("n", [20, 70])
def test_hard_spectra(n, which, dtype):
    G = torch.stack([psd(s, n, seed) for seed, s in enumerate(HARD.values())]).to(dtype)
    pairs = lanczos(DenseLinearOperator(G), 5, 1e-4, streams(len(G)), which)
    check(G, pairs, *ENDS[which])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ENDS)
def test_indefinite_operators(which, dtype):
    middle = torch.linspace(-0.5, 0.5, 90)
    spectra = [
        torch.cat([torch.tensor([2.0, 2.0, 1.5, 1.0]), middle, -torch.tensor([1.0, 3.0, 3.0])]),
        torch.cat([-geometric(60, 0.8), geometric(37, 0.7)]),
        torch.linspace(-2, -1, 97),
    ]
    A = torch.stack([symmetric(s) for s in spectra]).to(dtype)
    pairs = lanczos(DenseLinearOperator(A), 5, 1e-4, streams(3), which, max_basis=30)
    check(A, pairs, *ENDS[which])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pullback_metric_of_the_small_side(dtype):
    J = torch.stack([with_spectrum(geometric(64, r), 64, 300) for r in (0.3, 0.9)]).to(dtype)
    pairs = lanczos(pb.PullbackMetric(J.mT), 5, 1e-4, streams(2))
    check(J @ J.mT, pairs, 5)
    assert pairs.iterations[0] < 20 < pairs.iterations[1]


def test_factorisation_holds_through_restarts():
    A = torch.stack([symmetric(torch.linspace(-1, 1, 80), seed) for seed in range(3)])
    state = ThickRestart(DenseLinearOperator(A), 12, streams(3))
    everyone = torch.ones(3, dtype=torch.bool)

    def factorisation() -> None:
        for i, (size, beta) in enumerate(zip(state.size.tolist(), state.beta, strict=True)):
            Q, q, T = state.basis[i, :size], state.basis[i, size], state.T[i, :size, :size]
            last = torch.nn.functional.one_hot(torch.tensor(size - 1), size)
            torch.testing.assert_close(A[i] @ Q.mT, Q.mT @ T + beta * torch.outer(q, last))
            vectors = state.basis[i, : size + 1]
            gap = (vectors @ vectors.mT - torch.eye(size + 1, dtype=torch.float64)).abs().max()
            assert gap <= 10 * 80 * torch.finfo(torch.float64).eps

    for _ in range(9):
        state.step(everyone)
    factorisation()
    # One sample restarts, then another; the third stays put meanwhile.
    two = torch.tensor([True, True, False])
    state.restart(torch.tensor([0]), (3, 2))
    state.step(two)
    factorisation()
    state.restart(torch.tensor([1]), (4, 0))
    assert state.size.tolist() == [6, 4, 9]
    for _ in range(3):
        state.step(two)
        factorisation()
    assert state.size.tolist() == [9, 7, 9]
    assert state.steps.tolist() == [13, 13, 9]


def test_restarts_do_not_make_ritz_values_worse():
    A = symmetric(torch.linspace(-1, 1, 80))[None]
    state, one = ThickRestart(DenseLinearOperator(A), 10, streams(1)), torch.tensor([0])
    high, low = torch.tensor(-1.0), torch.tensor(1.0)
    for _ in range(5):
        while state.size < 10:
            state.step(torch.tensor([True]))
        values, residuals = state.ritz_values(one, (1, 1))
        assert values[0, 0] >= high
        assert values[0, 1] <= low
        high, low = values[0]
        state.restart(one, (3, 3))
    assert residuals.max() < 0.1


def test_no_eigenvector_has_more_of_the_start_than_the_recurrence_allows():
    A = symmetric(geometric(60, 0.8))
    values, vectors = torch.linalg.eigh(A)
    state = ThickRestart(DenseLinearOperator(A[None]), 20, streams(1))
    components = (vectors.mT @ state.basis[0, 0]).abs()
    for _ in range(11):
        state.step(torch.tensor([True]))
        bound = torch.cat(
            [largest_component(state.T, state.size, state.beta, v[None]) for v in values]
        )
        assert (components <= bound * (1 + 1e-6)).all()
    # The bound is attained for eigenvalues that the Krylov space has resolved.
    torch.testing.assert_close(bound[-3:], components[-3:], rtol=1e-2, atol=0.0)
    # What the start lacks is ruled out after a few steps.
    beyond = largest_component(
        state.T, state.size, state.beta, torch.tensor([1.5], dtype=torch.float64)
    )
    assert beyond < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_copy_of_a_repeated_eigenvalue(dtype):
    fast = torch.cat([torch.full((4,), 2.0), geometric(196, 0.8)])
    slow = torch.cat([torch.full((3,), 1.0), torch.linspace(0.97, 0, 197)])
    G = torch.stack([psd(fast, 200), psd(slow, 200)]).to(dtype).repeat_interleave(10, 0)
    pairs = lanczos(DenseLinearOperator(G), 6, 1e-4, streams(20))
    check(G, pairs, 6)


def test_every_copy_that_lies_close_to_the_last_wanted_value():
    # One copy of 1 was missing in the last sample.
    g = torch.Generator().manual_seed(0)
    copies = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.999, 0.999, 0.999], dtype=torch.float64)
    matrices = []
    for _ in range(12):
        rest = 0.98 * torch.rand(53, generator=g, dtype=torch.float64)
        values = torch.cat([copies, rest]).sort(descending=True).values
        Q = torch.linalg.qr(torch.randn(60, 60, generator=g, dtype=torch.float64))[0]
        matrices.append(Q * values @ Q.mT)
    G = torch.stack(matrices)
    pairs = pb.eigsh(DenseLinearOperator(G), 5, "lanczos")
    check(G, pairs, 5)


def test_what_its_steps_did_not_verify_has_not_converged():
    G = DenseLinearOperator(psd(geometric(150, 0.8), 150)[None])
    enough = lanczos(G, 3, 1e-4, streams(1)).n_products - 3
    assert not lanczos(G, 3, 1e-4, streams(1), max_steps=enough - 2).converged.any()


def test_a_start_that_lacks_the_leading_eigenvectors():
    G = psd(geometric(150, 0.8), 150)
    vectors = torch.linalg.eigh(G)[1].flip(-1)
    for wrong in (vectors[:, 3:8], vectors[:, [1]], vectors[:, -5:]):
        pairs = lanczos(DenseLinearOperator(G[None]), 5, 1e-4, streams(1), start=wrong)
        check(G[None], pairs, 5)


@pytest.mark.parametrize("which", ENDS)
def test_a_warm_start_costs_less_and_changes_nothing_else(which):
    A = symmetric(torch.cat([geometric(80, 0.8), -geometric(80, 0.8)])).repeat(2, 1, 1)
    high, low = ENDS[which]
    vectors = torch.linalg.eigh(A)[1]
    start = torch.cat([vectors[..., 160 - high :], vectors[..., :low]], dim=-1)
    start = start + 1e-4 * torch.randn_like(start)
    cold = lanczos(DenseLinearOperator(A), 5, 1e-4, streams(2), which)
    for given in (start, start[0], 1e6 * start.float()):
        warm = lanczos(DenseLinearOperator(A), 5, 1e-4, streams(2), which, start=given)
        check(A, warm, high, low)
        assert warm.n_products < cold.n_products


def test_starts_that_say_nothing_are_ignored():
    A = DenseLinearOperator(psd(geometric(50, 0.6), 50)[None])
    plain = lanczos(A, 3, 1e-4, streams(1))
    v = torch.rand(50, 1)
    for start in (torch.zeros(50, 2), torch.cat([v, -v], dim=1)):
        again = lanczos(A, 3, 1e-4, streams(1), start=start)
        assert torch.equal(again.values, plain.values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sample_does_not_depend_on_its_batch(dtype):
    spectra = [*HARD.values(), geometric(70, 0.95), torch.linspace(1, 0.1, 70)]
    G = torch.stack([psd(s, 70, seed) for seed, s in enumerate(spectra)]).to(dtype)
    batch = len(G)
    together = lanczos(DenseLinearOperator(G), 4, 1e-4, streams(batch), max_basis=20)
    assert together.iterations[0] == 5
    assert together.iterations[-1] > 40
    generator = torch.Generator().manual_seed(0)
    for i in range(batch):
        own = SampleStreams(1, generator)
        alone = lanczos(DenseLinearOperator(G[i : i + 1]), 4, 1e-4, own, max_basis=20)
        scale = torch.finfo(dtype).eps * G[i].abs().max().item()
        torch.testing.assert_close(alone.values[0], together.values[i], rtol=1e-6, atol=100 * scale)
        assert (alone.iterations[0] - together.iterations[i]).abs() <= 8


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (7, 7), (7, 6)])
def test_small_spaces(n, k, which):
    spectra = [torch.arange(n) - 2.0, torch.zeros(n), -torch.ones(n)]
    A = torch.stack([symmetric(s) for s in spectra])
    ends = {"largest": (k, 0), "smallest": (0, k), "both": (k - k // 2, k // 2)}
    pairs = lanczos(DenseLinearOperator(A), k, 1e-4, streams(3), which)
    check(A, pairs, *ends[which])


@pytest.mark.parametrize(("which", "name"), [("largest", "LA"), ("smallest", "SA"), ("both", "BE")])
def test_agreement_with_scipy(which, name):
    A = symmetric(torch.cat([geometric(100, 0.9), -2 * geometric(100, 0.8)]))
    pairs = lanczos(DenseLinearOperator(A[None]), 5, 1e-8, streams(1), which)
    # The odd one of "BE" is at the high end in scipy too.
    expected = scipy.sparse.linalg.eigsh(A.numpy(), 5, which=name, return_eigenvectors=False)
    expected = torch.tensor(sorted(expected, reverse=True))
    torch.testing.assert_close(pairs.values[0], expected)


def test_what_is_not_reached_is_reported():
    G = psd(torch.linspace(1, 0.9, 400), 400)[None]
    for most in (0, 10, 30, 60):
        pairs = lanczos(DenseLinearOperator(G), 5, 1e-4, streams(1), max_steps=most - 5)
        honest(G, pairs)
        assert not pairs.converged.all()
        assert pairs.n_products == max(10, most)


def test_more_than_float32_has_is_asked_for():
    G = psd(torch.linspace(1, 0.9, 100), 100)[None].float()
    honest(G, lanczos(DenseLinearOperator(G), 2, 1e-12, streams(1)), 1e-12)


def test_what_is_not_accepted():
    A = DenseLinearOperator(torch.eye(6).expand(2, 6, 6))
    with pytest.raises(ValueError, match="which='LA' is not one of 'largest', 'smallest', 'both'"):
        lanczos(A, 2, 1e-4, streams(2), "LA")
    with pytest.raises(ValueError, match=r"max_basis=3 must be at least min\(n, k \+ 2\) = 4"):
        lanczos(A, 2, 1e-4, streams(2), max_basis=3)
    for shape in ((5, 1), (3, 6, 1), (6,), (6, 0)):
        with pytest.raises(ValueError, match=r"start must have shape \(6, p\) or \(2, 6, p\), got"):
            lanczos(A, 2, 1e-4, streams(2), start=torch.ones(shape))
    with pytest.raises(ValueError, match="start is NaN or infinite in sample 0"):
        lanczos(A, 2, 1e-4, streams(2), start=torch.full((6, 1), torch.nan))
    broken = torch.eye(6).repeat(2, 1, 1)
    broken[1, 2, 2] = torch.inf
    with pytest.raises(ValueError, match="the operator's product is NaN or infinite in sample 1"):
        lanczos(DenseLinearOperator(broken), 2, 1e-4, streams(2))

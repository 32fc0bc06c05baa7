"""eigsh against dense float64 and scipy, on spectra that are easy and that are not."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_operator.operators import DenseLinearOperator
from torch import Tensor

import pullback as pb
import pullback.eigen
from tests.conftest import ConvEncoder, SmoothEncoder, dense_jacobian, numbered, prescribed, stacked

METHODS = ["dual", "golub-kahan", "lanczos", "lobpcg", "nystrom"]
DTYPES = [torch.float32, torch.float64]


def with_spectrum(eigenvalues: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A matrix J, rows×columns, such that JᵀJ has these eigenvalues and zeros."""
    g = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=g, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=g, dtype=torch.float64))[0]
    r = len(eigenvalues)
    return left[:, :r] * eigenvalues.double().sqrt() @ right[:, :r].mT


def geometric(count: int, ratio: float) -> Tensor:
    return ratio ** torch.arange(count, dtype=torch.float64)


CLUSTER = torch.tensor([1.0, 1 - 1e-5, 1 - 2e-5, 0.5, 0.5 - 1e-6])
HARD = {
    "zero": torch.zeros(20),
    "identity": torch.ones(20),
    "repeated": torch.tensor([3.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.5]),
    "clustered": torch.cat([CLUSTER, 0.1 * geometric(10, 0.7)]),
    "rank 1": torch.tensor([4.0]),
    "rank-deficient": geometric(4, 0.5),
    "condition 1e12": geometric(20, 10 ** (-12 / 19)),
    "flat": torch.linspace(1, 0.5, 20),
    "huge": 1e8 * geometric(20, 0.6),
    "tiny": 1e-8 * geometric(20, 0.6),
}
SHAPES = {"wide": (20, 50), "square": (20, 20), "tall": (50, 20)}


def check(metric, J: Tensor, pairs: pb.EigenPairs, k: int, tol: float = 1e-4) -> None:
    """Values, factorisation identity, orthonormality and the reported residual of every sample."""
    eps = torch.finfo(metric.dtype).eps
    G = (J.mT @ J).double()
    exact = torch.linalg.eigvalsh(G).flip(-1)[..., :k].clamp(min=0)
    largest = exact[..., :1]
    values, vectors = pairs.values.double(), pairs.vectors.double()
    noise = 8 * max(J.shape[-2:]) * eps
    assert ((values - exact).abs() <= 1e-5 * exact + noise * largest).all()
    assert (values.diff(dim=-1) <= 0).all()
    identity = torch.eye(k, dtype=torch.float64)
    n = J.shape[-1]
    assert (vectors.mT @ vectors - identity).abs().max() <= 10 * eps * n
    residuals = (G @ vectors - vectors * values.unsqueeze(-2)).norm(dim=-2)
    assert (residuals <= torch.maximum(tol * values, 32 * eps * largest)).all()
    assert ((residuals - pairs.residual_norms).abs() <= 0.01 * residuals + noise * largest).all()
    assert pairs.converged.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", HARD)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_hard_spectra(method, spectrum, shape, dtype):
    J = with_spectrum(HARD[spectrum], *SHAPES[shape]).to(dtype)[None]
    metric = pb.expected_metric(prescribed(J), numbered(J))
    check(metric, J, pb.eigsh(metric, 5, method), 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_a_batch_of_mixed_spectra_gives_what_each_gives_alone(method, dtype):
    J = torch.stack([with_spectrum(s, 30, 40, seed) for seed, s in enumerate(HARD.values())])
    J = J.to(dtype)
    metric = pb.expected_metric(prescribed(J), numbered(J))
    pairs = pb.eigsh(metric, 6, method)
    check(metric, J, pairs, 6)
    g = torch.Generator().manual_seed(0)
    for i in range(len(J)):
        alone = pb.eigsh(
            pb.expected_metric(prescribed(J), numbered(J)[i : i + 1]), 6, method, generator=g
        )
        torch.testing.assert_close(alone.values[0], pairs.values[i])


@pytest.mark.parametrize("method", METHODS)
def test_easy_samples_stop_early(method):
    J = torch.stack([with_spectrum(geometric(100, r), 100, 120) for r in (0.1, 0.9)])
    metric = pb.expected_metric(prescribed(J), numbered(J))
    pairs = pb.eigsh(metric, 3, method)
    check(metric, J, pairs, 3)
    if method == "golub-kahan":
        assert pairs.iterations[0] < pairs.iterations[1] < 100


@pytest.mark.parametrize("method", METHODS)
def test_golub_kahan_finds_every_copy_of_a_repeated_eigenvalue_in_a_large_space(method):
    spectrum = torch.cat([torch.full((4,), 2.0), geometric(196, 0.8)])
    J = with_spectrum(spectrum, 200, 300)[None]
    metric = pb.expected_metric(prescribed(J), numbered(J))
    check(metric, J, pb.eigsh(metric, 6, method), 6)


def test_auto_is_exact_where_a_spectrum_decays_slowly():
    J = torch.stack([with_spectrum(geometric(240, ratio), 240, 300) for ratio in (0.99, 0.3, 0.98)])
    metric = pb.PullbackMetric(J)
    pairs = pb.eigsh(metric, 5)
    check(metric, J, pairs, 5)
    # The second sample is done in a few steps, the others are handed over.
    assert pairs.iterations[1] < 20 < 120 == pairs.iterations[0] == pairs.iterations[2]
    assert pairs.n_products > 240


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 7, 12])
def test_k_up_to_n_and_beyond_the_rank(method, k):
    J = with_spectrum(geometric(4, 0.5), 6, 12)[None]
    metric = pb.expected_metric(prescribed(J), numbered(J))
    if k == 1:
        pairs = pb.eigsh(metric, k, method)
    else:
        with pytest.warns(pb.RankWarning, match=rf"k={k} exceeds .*\(rank 4 in sample 0\)"):
            pairs = pb.eigsh(metric, k, method)
        assert (pairs.values[:, 4:] == 0).all()
    check(metric, J, pairs, k)


@pytest.mark.parametrize("method", METHODS)
def test_one_dimension(method):
    J = torch.tensor([[[2.0], [1.0]], [[0.5], [0.0]]])
    pairs = pb.eigsh(pb.PullbackMetric(J), 1, method)
    torch.testing.assert_close(pairs.values, torch.tensor([[5.0], [0.25]]))
    torch.testing.assert_close(pairs.vectors, torch.ones(2, 1, 1))


def test_golub_kahan_refuses_what_it_cannot_do():
    metric = pb.PullbackMetric(torch.rand(2, 5, 3), torch.eye(5))
    with pytest.raises(ValueError, match="no more rows than columns, got 5×3; use method='dual'"):
        pb.eigsh(metric, 2, "golub-kahan")
    assert pb.eigsh(metric, 2).converged.all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("singular", [False, True])
def test_weighted_metrics(method, singular):
    J = torch.randn(3, 20, 40, dtype=torch.float64)
    root = torch.randn(3, 20, 12 if singular else 20, dtype=torch.float64)
    metric = pb.PullbackMetric(J, root @ root.mT)
    check(metric, root.mT @ J, pb.eigsh(metric, 5, method), 5)


@pytest.mark.parametrize("method", METHODS)
def test_combined_metric_against_dense(method):
    encoder = pb.as_map(SmoothEncoder(20, 4, dtype=torch.float64), "mean_logvar")
    decoder = pb.as_map(SmoothEncoder(4, 20, dtype=torch.float64), "mean_logvar")
    metric = pb.expected_metric(encoder, torch.rand(3, 20, dtype=torch.float64), decoder)
    pairs = pb.eigsh(metric, 4, method)
    exact = torch.linalg.eigvalsh(metric.to_dense()).flip(-1)[:, :4]
    torch.testing.assert_close(pairs.values, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_agreement_with_scipy(method):
    encoder = pb.as_map(ConvEncoder(latent=10).eval(), "mean_logvar")
    x = torch.rand(2, 3, 32, 32)
    pairs = pb.eigsh(pb.expected_metric(encoder, x), 3, method)
    for i in range(2):
        J = dense_jacobian(stacked(encoder), x[i : i + 1])[0].detach()
        operator = scipy.sparse.linalg.aslinearoperator(J.double().numpy())
        singular = scipy.sparse.linalg.svds(operator, 3, return_singular_vectors=False, rng=0)
        expected = torch.tensor(sorted(singular**2, reverse=True))
        torch.testing.assert_close(pairs.values[i].double(), expected, rtol=1e-5, atol=0.0)


def test_eigenvectors_of_the_largest_accuracy_asked_for():
    J = with_spectrum(geometric(60, 0.5), 60, 80)[None]
    metric = pb.PullbackMetric(J)
    exact = torch.linalg.svd(J)[2][0, :3].mT
    for tol in (1e-2, 1e-6, 1e-10):
        vectors = pb.eigsh(metric, 3, "golub-kahan", tol=tol).vectors[0]
        signs = (vectors * exact).sum(0).sign()
        assert ((vectors - signs * exact).norm(dim=0) <= max(2 * tol, 1e-9)).all()


def test_subspaces_where_eigenvalues_cluster():
    J = with_spectrum(HARD["clustered"], 20, 50).float()[None]
    exact = torch.linalg.svd(J.double())[2][0, :3].mT
    for method in METHODS:
        vectors = pb.eigsh(pb.PullbackMetric(J), 3, method).vectors[0].double()
        angles = scipy.linalg.subspace_angles(vectors.numpy(), exact.numpy())
        assert angles.max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [(), (2, 3), (2, 1, 2)])
def test_any_batch_shape(method, batch):
    J = torch.randn(*batch, 6, 9, dtype=torch.float64)
    pairs = pb.eigsh(pb.PullbackMetric(J), 2, method)
    exact = torch.linalg.svdvals(J).square()[..., :2]
    torch.testing.assert_close(pairs.values, exact)
    assert pairs.vectors.shape == (*batch, 9, 2)
    assert pairs.iterations.shape == batch
    assert pairs.n_products >= 2 * 2


def test_the_seed_decides_everything_and_signs_do_not_depend_on_it():
    J = with_spectrum(geometric(150, 0.8), 150, 200).float()[None]
    metric = pb.PullbackMetric(J)
    runs = [
        pb.eigsh(metric, 4, "golub-kahan", generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].vectors, runs[1].vectors)
    assert not torch.equal(runs[0].vectors, runs[2].vectors)
    torch.testing.assert_close(runs[0].vectors, runs[2].vectors, atol=1e-3, rtol=0.0)
    for a, b in itertools.pairwise(runs):
        assert ((a.vectors * b.vectors).sum(-2) > 0.999).all()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    rank=st.integers(0, 12),
    seed=st.integers(0, 2**31),
    method=st.sampled_from(METHODS),
    data=st.data(),
)
def test_any_matrix(rows, columns, rank, seed, method, data):
    k = data.draw(st.integers(1, columns))
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2, rows, rank, generator=g, dtype=torch.float64)
    J = a @ torch.randn(2, rank, columns, generator=g, dtype=torch.float64)
    metric = pb.PullbackMetric(J)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.RankWarning)
        check(metric, J, pb.eigsh(metric, k, method), k)


def test_what_is_not_accepted():
    metric = pb.PullbackMetric(torch.rand(2, 3, 4))
    for k in (0, -1, 5):
        with pytest.raises(ValueError, match=f"k={k} must lie between 1 and N = 4"):
            pb.eigsh(metric, k)
    assert pb.eigsh(metric, k=np.int64(2)).values.shape == (2, 2)  # type: ignore[arg-type]
    for other in (2.0, True, "2"):
        with pytest.raises(TypeError, match="k must be an integer, got"):
            pb.eigsh(metric, other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method='qr' is not one of 'auto', 'dual', 'golub-kahan'"):
        pb.eigsh(metric, 2, "qr")
    with pytest.raises(ValueError, match="tol='small' must lie between 0 and 1"):
        pb.eigsh(metric, 2, tol="small")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tol=0 must lie between 0 and 1"):
        pb.eigsh(metric, 2, tol=0)
    with pytest.raises(TypeError, match="expected a LinearOperator, got Tensor; wrap it with"):
        pb.eigsh(torch.eye(3), 2)
    with pytest.raises(TypeError, match=r"expected a LinearOperator, got str$"):
        pb.eigsh("metric", 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_derivative_that_is_not_finite_is_named(method):
    # The square root has a finite value and an infinite slope at 0.
    x = torch.rand(3, 4)
    metric = pb.expected_metric(lambda x: x.sqrt(), x)
    assert pb.eigsh(metric, 2, method).converged.all()
    x[2, 1] = 0
    metric = pb.expected_metric(lambda x: x.sqrt(), x)
    with pytest.raises(ValueError, match="is NaN or infinite in sample 2"):
        pb.eigsh(metric, 2, method)


class Skewed(DenseLinearOperator):
    """A matrix whose transpose is another one."""

    def _transpose_nonbatch(self):
        return DenseLinearOperator(self.tensor.mT + 0.05 * self.tensor.mT.roll(1, -1))

    def _t_matmul(self, rhs):
        return self._transpose_nonbatch()._matmul(rhs)


def test_lost_accuracy_is_reported():
    J = Skewed(torch.diag_embed(torch.arange(1.0, 7).expand(2, 6)))
    with pytest.warns(pb.ConvergenceWarning, match=r"of 2 samples missed tol=0.0001; the worst"):
        pairs = pb.eigsh(pb.PullbackMetric(J), 2, "golub-kahan")
    assert not pairs.converged.all()


def test_public_names():
    names = """
        METHODS ConvergenceWarning EigenPairs Preconditioner RankWarning SingularTriplets WarmStart
        eigsh expected_products svds
    """
    assert pullback.eigen.__all__ == names.split()
    assert all(hasattr(pullback.eigen, name) for name in names.split())

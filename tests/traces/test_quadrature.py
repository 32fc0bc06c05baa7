"""Lanczos, Gauss and Gauss–Radau rules: identities, exactness, and bounds that always hold."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_operator.operators import DiagLinearOperator, to_linear_operator
from torch import Tensor

from pullback.traces import EXP, INVERSE, LOG, SQRT, XLOGX, Integrand, quadratic_form
from pullback.traces.quadrature import gauss, radau
from pullback.traces.tridiagonal import tridiagonalise
from tests.eigen.test_eigsh import HARD, geometric
from tests.traces.conftest import bounds
from tests.traces.test_estimators import DTYPES, symmetric

INTEGRANDS = {"x log x": XLOGX, "sqrt": SQRT, "log": LOG, "inverse": INVERSE, "exp": EXP}


def padded(spectrum: Tensor, n: int = 20) -> Tensor:
    return torch.nn.functional.pad(spectrum.double(), (0, n - len(spectrum)))


def start(n: int, columns: int, dtype=torch.float64, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, columns, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [1, 6, 20, 30])
@pytest.mark.parametrize("spectrum", HARD)
def test_the_factorisation_identity(spectrum, steps, dtype):
    eigenvalues = padded(HARD[spectrum])
    A, v = symmetric(eigenvalues).to(dtype), start(20, 3, dtype)
    Q, T = tridiagonalise(to_linear_operator(A), v, steps)
    n, eps, size = min(steps, 20), torch.finfo(dtype).eps, eigenvalues.max()
    assert Q.shape == (3, 20, n)
    Q = Q.double()
    matrix = torch.diag_embed(T.diagonal)
    for offset in (1, -1):
        matrix = matrix + torch.diag_embed(T.off_diagonal[:, :-1], offset)
    residual = A.double() @ Q - Q @ matrix
    # A column of zeros after a breakdown, else orthonormal.
    alive = torch.cat([torch.ones(3, 1), (T.off_diagonal[:, :-1] != 0).cumprod(-1)], -1).double()
    assert (Q.mT @ Q - torch.diag_embed(alive)).abs().max() <= 10 * eps * 20
    assert (residual[..., :-1]).norm() <= 100 * eps * size
    last = residual[..., -1]
    assert (last.norm(dim=-1) - T.off_diagonal[:, -1]).abs().max() <= 100 * eps * size
    assert (Q.mT @ last.unsqueeze(-1)).abs().max() <= 100 * eps * size
    torch.testing.assert_close(Q[..., 0] * v.double().norm(dim=0)[:, None], v.mT.double())
    assert torch.equal(T.exact, (alive[:, -1] == 0) | (T.off_diagonal[:, -1] == 0))


@pytest.mark.parametrize("ends", [None, "below", "above"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_rules_are_exact_for_polynomials(n, ends):
    eigenvalues = torch.linspace(0.5, 1.5, 20, dtype=torch.float64)
    v = start(20, 4)
    _, T = tridiagonalise(DiagLinearOperator(eigenvalues), v, n)
    if ends is None:
        rule = gauss(T)
    else:
        end = torch.full_like(T.mass, 0.3 if ends == "below" else 2.0)
        rule = radau(T, end, ends == "below")
        assert (rule.nodes - end[:, None]).abs().amin(-1).max() < 1e-12
    degree = 2 * n - 1 if ends is None else 2 * n

    def error(power: int) -> Tensor:
        moment = (v.square() * eigenvalues[:, None] ** power).sum(0)
        return ((rule.apply(lambda x: x**power) - moment) / moment).abs()

    assert all(error(power).max() < 1e-12 for power in range(degree + 1))
    assert error(degree + 1).min() > 1e-9
    torch.testing.assert_close(rule.weights.sum(-1), v.square().sum(0))


def test_nodes_and_weights_agree_with_scipy():
    _, T = tridiagonalise(DiagLinearOperator(geometric(30, 0.8)), start(30, 2), 8)
    rule = gauss(T)
    for i in range(2):
        values, vectors = scipy.linalg.eigh_tridiagonal(
            T.diagonal[i].cpu().numpy(), T.off_diagonal[i, :-1].cpu().numpy()
        )
        np.testing.assert_allclose(rule.nodes[i].cpu(), values, atol=1e-13)
        np.testing.assert_allclose((rule.weights[i] / T.mass[i]).cpu(), vectors[0] ** 2, atol=1e-12)


def test_a_form_agrees_with_scipy():
    A, v = symmetric(torch.linspace(0.1, 3, 25)), start(25, 1)[:, 0]
    for f, dense in (
        (LOG, scipy.linalg.logm),
        (SQRT, scipy.linalg.sqrtm),
        (EXP, scipy.linalg.expm),
    ):
        expected = v.cpu().numpy() @ dense(A.cpu().numpy()) @ v.cpu().numpy()
        estimate = quadratic_form(to_linear_operator(A), v, f, steps=25)
        np.testing.assert_allclose(estimate.value.cpu(), expected, rtol=1e-10)
        assert estimate.std_error == 0


spectra = st.one_of(
    st.sampled_from([padded(spectrum) for spectrum in HARD.values()]),
    # What is smaller would underflow in products of float32.
    st.lists(st.just(0.0) | st.floats(1e-20, 10), min_size=1, max_size=15).map(
        lambda x: torch.tensor(x, dtype=torch.float64)
    ),
    st.integers(1, 15).map(lambda n: geometric(n, 0.1)),
)


@pytest.mark.filterwarnings("ignore::pullback.traces.QuadratureWarning")
@settings(deadline=None, max_examples=200)
@given(
    eigenvalues=spectra,
    name=st.sampled_from(sorted(INTEGRANDS)),
    steps=st.integers(1, 20),
    known=st.sampled_from(["nothing", "both ends", "more than the ends"]),
    dense=st.booleans(),
    skewed=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
@example(geometric(20, 10 ** (-12 / 19)), "inverse", 20, "both ends", True, False, torch.float64)
@example(padded(torch.ones(1)), "sqrt", 2, "nothing", True, False, torch.float32)
def test_the_truth_is_always_between_the_bounds(
    eigenvalues, name, steps, known, dense, skewed, dtype
):
    f = INTEGRANDS[name]
    if name == "exp":
        eigenvalues = eigenvalues.clamp(max=20)
    n = len(eigenvalues)
    v = start(n, 1)[:, 0].to(dtype)
    if skewed:
        # Hardly any of v lies along some of the eigenvectors.
        v = v * geometric(n, 1e-2).to(dtype)
    if dense:
        U = torch.linalg.qr(start(n, n))[0]
        A = to_linear_operator(((U * eigenvalues) @ U.mT).to(dtype))
        weights = v.double().square()
        v = (U @ v.double()).to(dtype)
    else:
        A = DiagLinearOperator(eigenvalues.to(dtype))
        eigenvalues, weights = A._diag.double(), v.double().square()
    low, high = eigenvalues.min().item(), eigenvalues.max().item()
    interval = {
        "nothing": None,
        "both ends": (low, high),
        "more than the ends": (low / 2, torch.tensor(2 * high + 1)),
    }[known]
    truth = (weights * f(eigenvalues)).sum().item()
    estimate = quadratic_form(A, v, f, steps, interval)
    # What is infinite at 0 is out of reach on one side if rounding cannot tell A from singular.
    blurred = low <= 1e3 * n * torch.finfo(dtype).eps * high
    if not (name == "inverse" and blurred):
        assert estimate.lower is not None
        assert estimate.lower <= truth
    if name == "exp" and known == "nothing":
        assert estimate.upper is None
    elif not (name == "log" and blurred):
        assert estimate.upper is not None
        assert truth <= estimate.upper
    assert estimate.std_error >= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INTEGRANDS)
def test_bounds_close_in_on_the_truth(name, dtype):
    f = INTEGRANDS[name]
    eigenvalues = torch.linspace(0.5, 2, 40, dtype=dtype)
    v = start(40, 1, dtype)[:, 0]
    truth = (v.double().square() * f(eigenvalues.double())).sum()
    widths = []
    rounding = 5e3 * torch.finfo(dtype).eps * v.double().square().sum() * f(eigenvalues).abs().max()
    for steps in (1, 3, 6, 15):
        estimate = quadratic_form(DiagLinearOperator(eigenvalues), v, f, steps, (0.5, 2.0))
        lower, upper = bounds(estimate)
        assert lower <= estimate.value <= upper
        assert lower <= truth <= upper
        assert (estimate.value - truth).abs() <= 2 * estimate.std_error + rounding
        widths.append((upper - lower).item())
    assert all(b < a + rounding for a, b in itertools.pairwise(widths))
    assert widths[3] <= rounding


@pytest.mark.filterwarnings("ignore::pullback.traces.QuadratureWarning")
def test_which_rule_bounds_which_function():
    operator, v = DiagLinearOperator(geometric(30, 0.8)), start(30, 1)[:, 0]
    # x log x: the Gauss rule is the lower bound, but for rounding.
    estimate = quadratic_form(operator, v, XLOGX, 4)
    lower, upper = bounds(estimate)
    torch.testing.assert_close(lower, estimate.value)
    assert upper > estimate.value + 1e-6
    estimate = quadratic_form(operator, v, SQRT, 4)
    torch.testing.assert_close(estimate.upper, estimate.value)
    # No finite upper bound for an inverse if eigenvalues may be 0, and none for exp without an end.
    assert quadratic_form(operator, v, INVERSE, 4).upper == torch.inf
    assert quadratic_form(operator, v, EXP, 4).upper is None
    plain = quadratic_form(operator, v, torch.cos, 4)
    assert plain.lower is None
    assert plain.upper is None
    exact = (v.square() * geometric(30, 0.8).cos()).sum()
    assert 0 < abs(plain.value - exact) <= plain.std_error


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_batch_shape(batch):
    eigenvalues = torch.rand(*batch, 12, dtype=torch.float64)
    v = torch.randn(*batch, 12, dtype=torch.float64)
    ends = eigenvalues.amin(-1), eigenvalues.amax(-1)
    estimate = quadratic_form(DiagLinearOperator(eigenvalues), v, XLOGX, 5, ends)
    truth = (v.square() * XLOGX(eigenvalues)).sum(-1)
    assert estimate.value.shape == estimate.std_error.shape == batch
    lower, upper = bounds(estimate)
    assert (lower <= truth).all()
    assert (truth <= upper).all()
    nothing = quadratic_form(DiagLinearOperator(eigenvalues), 0 * v, LOG, 5)
    assert (nothing.value == 0).all()
    assert (bounds(nothing)[0] == 0).all()


def test_rounding_below_zero_is_forgiven_and_no_more():
    v = torch.ones(3, dtype=torch.float64)
    eigenvalues = torch.tensor([1.0, 0.5, -1e-16], dtype=torch.float64)
    estimate = quadratic_form(DiagLinearOperator(eigenvalues), v, XLOGX, 3)
    torch.testing.assert_close(estimate.value, XLOGX(eigenvalues).sum())
    eigenvalues = torch.tensor([[1.0, 0.5, 0.1], [1.0, 0.5, -0.3]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"from 0 to any, but sample 1 has a Ritz value of -0\.3"):
        quadratic_form(DiagLinearOperator(eigenvalues), v.expand(2, 3), XLOGX, 3)
    with pytest.raises(ValueError, match=r"from any to 0\.7, but sample 0 has a Ritz value of 1"):
        quadratic_form(DiagLinearOperator(eigenvalues), v.expand(2, 3), EXP, 3, (None, 0.7))


def test_what_is_not_accepted():
    A, v = DiagLinearOperator(torch.ones(4)), torch.ones(4)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        quadratic_form(A, v, LOG, 0)
    with pytest.raises(TypeError, match=r"steps must be an integer, got 2\.5"):
        quadratic_form(A, v, LOG, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"v must be a tensor torch\.float32 \(4,\), got .*\(3,\)"):
        quadratic_form(A, v[:3], LOG)
    with pytest.raises(ValueError, match=r"got torch\.float64 \(4,\)"):
        quadratic_form(A, v.double(), LOG)
    with pytest.raises(TypeError, match="f must be an Integrand or a function of a tensor, got 'l"):
        quadratic_form(A, v, "log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="even_sign must be 1, -1 or None, got 2"):
        Integrand(torch.sin, even_sign=2)

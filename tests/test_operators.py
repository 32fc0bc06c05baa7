"""The operators against linear_operator's own test cases and against dense float64."""

import pickle
import unittest

import gpytorch
import linear_operator
import pytest
import torch
from linear_operator.operators import DiagLinearOperator, IdentityLinearOperator
from linear_operator.test.linear_operator_test_case import (
    LinearOperatorTestCase,
    RectangularLinearOperatorTestCase,
)
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor, nn

import pullback as pb
from tests.conftest import SmoothEncoder, dense_jacobian, stacked

# linear_operator gathers entries with sparse matrices, whose checks it leaves unset.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")

BATCHES = [(), (2,), (2, 3)]


class _DenseJacobian:
    """Builds the operator, and its matrix from the very tensors that the operator holds."""

    batch: tuple[int, ...] = ()
    inputs, outputs = 5, 3

    def _jacobian(self) -> pb.JacobianOperator:
        torch.manual_seed(1)
        encoder = pb.as_map(SmoothEncoder(self.inputs, self.outputs), "mean_logvar")
        x = torch.rand(*self.batch, self.inputs)
        J = pb.jacobian(encoder, x, batch_dims=len(self.batch))
        tensors = {k: v.detach().clone().requires_grad_() for k, v in J.tensors.items()}
        kwargs = J._kwargs | {f"parameter.{k}": v for k, v in tensors.items()}
        return pb.JacobianOperator(x.requires_grad_(), **kwargs)

    def _dense(self, J: pb.JacobianOperator) -> Tensor:
        def outputs(x: Tensor) -> Tensor:
            return stacked(lambda x: J.fn(x, tensors=J.tensors))(x.reshape(1, -1))[0]

        rows = [
            torch.autograd.functional.jacobian(outputs, row, create_graph=True)
            for row in J.x.reshape(-1, J.x.shape[-1])
        ]
        return torch.stack(rows).reshape(*J.shape)


class TestJacobianOperator(_DenseJacobian, RectangularLinearOperatorTestCase, unittest.TestCase):
    __test__ = True

    def create_linear_op(self):
        return self._jacobian()

    def evaluate_linear_op(self, linear_op):
        return self._dense(linear_op)


class TestJacobianOperatorBatch(TestJacobianOperator):
    batch = (2,)


class TestJacobianOperatorMultiBatch(TestJacobianOperator):
    batch = (2, 3)
    skip_slq_tests = True


class TestTransposedJacobianOperator(TestJacobianOperator):
    batch = (2,)

    def create_linear_op(self):
        return self._jacobian().mT

    def evaluate_linear_op(self, linear_op):
        return self._dense(linear_op.mT).mT


class TestPullbackMetric(_DenseJacobian, LinearOperatorTestCase, unittest.TestCase):
    __test__ = True
    # The rank is full, so that the base class may solve and factorise.
    inputs, outputs = 4, 5

    def create_linear_op(self):
        return pb.PullbackMetric(self._jacobian())

    def evaluate_linear_op(self, linear_op):
        J = self._dense(linear_op.jacobian)
        return J.mT @ J


class TestPullbackMetricBatch(TestPullbackMetric):
    batch = (2,)


class TestPullbackMetricMultiBatch(TestPullbackMetric):
    batch = (2, 3)
    skip_slq_tests = True


class TestWeightedPullbackMetric(TestPullbackMetric):
    batch = (2,)

    def create_linear_op(self):
        root = torch.rand(2, 10, 10)
        weight = (root @ root.mT + torch.eye(10)).requires_grad_()
        return pb.PullbackMetric(self._jacobian(), weight)

    def evaluate_linear_op(self, linear_op):
        J = self._dense(linear_op.jacobian)
        return J.mT @ linear_op.weight.to_dense() @ J


def _metric(batch: tuple[int, ...], dtype=torch.float64, inputs: int = 12) -> pb.PullbackMetric:
    encoder = pb.as_map(SmoothEncoder(inputs, 4, dtype=dtype), "mean_logvar")
    return pb.expected_metric(
        encoder, torch.rand(*batch, inputs, dtype=dtype), batch_dims=len(batch)
    )


def _dense(metric: pb.PullbackMetric) -> Tensor:
    encoder, x = metric.jacobian.fn, metric.jacobian.x.detach()
    J = dense_jacobian(lambda x: torch.cat(encoder(x), 1), x.reshape(-1, x.shape[-1]))
    return (J.mT @ J).reshape(*metric.shape).detach()


@pytest.mark.parametrize("batch", BATCHES)
def test_products_diagonal_trace_and_entries_against_dense(batch):
    metric = _metric(batch)
    dense = _dense(metric)
    v = torch.rand(*batch, 12, 3, dtype=torch.float64)
    torch.testing.assert_close(metric @ v, dense @ v)
    torch.testing.assert_close(metric.to_dense(), dense)
    torch.testing.assert_close(metric.diagonal(), dense.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(metric.trace(), dense.diagonal(dim1=-2, dim2=-1).sum(-1))
    torch.testing.assert_close(metric[..., 2, 5], dense[..., 2, 5])
    torch.testing.assert_close(metric[..., 1:3, ::4].to_dense(), dense[..., 1:3, ::4])
    rows, columns = torch.tensor([0, 3, 3, 11]), torch.tensor([7, 7, 0, 11])
    torch.testing.assert_close(metric[..., rows, columns], dense[..., rows, columns])
    if batch:
        torch.testing.assert_close(metric[1].to_dense(), dense[1])


@pytest.mark.parametrize("batch", BATCHES)
def test_addition_solve_and_logdet_against_dense(batch):
    metric, eps = _metric(batch), 0.1
    dense = _dense(metric) + eps * torch.eye(12, dtype=torch.float64)
    shifts = torch.rand(*batch, 12, dtype=torch.float64)
    torch.testing.assert_close(
        (metric + DiagLinearOperator(shifts)).to_dense(),
        _dense(metric) + torch.diag_embed(shifts),
    )
    shifted = metric.add_diagonal(torch.tensor(eps, dtype=torch.float64))
    rhs = torch.rand(*batch, 12, 2, dtype=torch.float64)
    exact = torch.linalg.solve(dense, rhs)
    torch.testing.assert_close(shifted.solve(rhs), exact)  # by Cholesky: 12 rows are few
    with linear_operator.settings.max_cholesky_size(0), linear_operator.settings.cg_tolerance(1e-5):
        torch.testing.assert_close(shifted.solve(rhs), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shifted.logdet(), dense.logdet())


def test_solve_with_a_preconditioner_on_an_image_sized_metric():
    # Above 2 000 rows linear_operator builds its pivoted Cholesky preconditioner from entries.
    metric = _metric((2,), inputs=2500)
    dense = _dense(metric) + 0.5 * torch.eye(2500, dtype=torch.float64)
    rhs = torch.rand(2, 2500, 1, dtype=torch.float64)
    with linear_operator.settings.cg_tolerance(1e-8):
        solution = metric.add_diagonal(torch.tensor(0.5, dtype=torch.float64)).solve(rhs)
    torch.testing.assert_close(dense @ solution, rhs)


def test_cg_settings_are_respected():
    metric = _metric(()).add_diagonal(torch.tensor(1e-3, dtype=torch.float64))
    rhs = torch.rand(12, 1, dtype=torch.float64)
    exact = torch.linalg.solve(metric.to_dense(), rhs)
    settings = linear_operator.settings
    with settings.max_cholesky_size(0), settings.cg_tolerance(1e-5):
        fine = metric.solve(rhs)
        few = settings.max_cg_iterations(2), settings.max_lanczos_quadrature_iterations(1)
        with few[0], few[1], pytest.warns(NumericalWarning, match="CG terminated in 2"):
            coarse = metric.solve(rhs)
    assert (fine - exact).norm() < 1e-4 * exact.norm() < (coarse - exact).norm()


def test_stochastic_logdet_uses_products_only():
    metric = _metric((2,), inputs=60).add_diagonal(torch.tensor(0.5, dtype=torch.float64))
    settings = linear_operator.settings
    with settings.max_cholesky_size(0), settings.num_trace_samples(2000):
        estimate = metric.logdet()
    torch.testing.assert_close(estimate, metric.to_dense().logdet(), rtol=0.02, atol=0.0)


def test_a_metric_is_a_gpytorch_covariance():
    metric = _metric((2,)).add_diagonal(torch.tensor(0.1, dtype=torch.float64))
    mean, x = torch.zeros(2, 12, dtype=torch.float64), torch.rand(2, 12, dtype=torch.float64)
    log_prob = gpytorch.distributions.MultivariateNormal(mean, metric).log_prob(x)
    expected = torch.distributions.MultivariateNormal(mean, metric.to_dense()).log_prob(x)
    torch.testing.assert_close(log_prob, expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_reach_the_input_and_the_parameters(batch):
    encoder = SmoothEncoder(6, 3, dtype=torch.float64)
    x = torch.rand(*batch, 6, dtype=torch.float64, requires_grad=True)
    v = torch.rand(*batch, 6, 1, dtype=torch.float64)
    metric = pb.expected_metric(pb.as_map(encoder, "mean_logvar"), x, batch_dims=len(batch))
    wanted = [x, *encoder.parameters()]
    quadratic = (v * (metric @ v)).sum()
    ours = torch.autograd.grad(quadratic, wanted, allow_unused=True, materialize_grads=True)
    half = stacked(pb.as_map(encoder, "mean_logvar"))
    flat_x, flat_v = x.reshape(-1, 6), v.reshape(-1, 6)
    _, pushed = torch.autograd.functional.jvp(half, flat_x, flat_v, create_graph=True)
    theirs = torch.autograd.grad(
        pushed.square().sum(), wanted, allow_unused=True, materialize_grads=True
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_pickle_detach_and_conversion():
    metric = _metric((2,))
    again = pickle.loads(pickle.dumps(metric))
    torch.testing.assert_close(again.to_dense(), metric.to_dense())
    single = metric.to(torch.float32)
    assert single.dtype == torch.float32 == (single @ torch.rand(2, 12, 1)).dtype
    torch.testing.assert_close(single.to_dense(), metric.to_dense().float())
    assert next(metric.jacobian.fn.module.parameters()).dtype == torch.float64
    assert not (metric.detach() @ torch.rand(2, 12, 1, dtype=torch.float64)).requires_grad


@pytest.mark.parametrize("stochastic_encoder", [False, True])
@pytest.mark.parametrize("stochastic_decoder", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_combined_metric_is_equation_11(stochastic_encoder, stochastic_decoder, batch):
    encoder = pb.as_map(SmoothEncoder(9, 3, dtype=torch.float64), "mean_logvar")
    decoder = pb.as_map(SmoothEncoder(3, 9, dtype=torch.float64), "mean_logvar")
    if not stochastic_encoder:
        encoder = pb.as_map(lambda x, full=encoder: full(x)[0])
    if not stochastic_decoder:
        decoder = pb.as_map(lambda z, full=decoder: full(z)[0])
    x = torch.rand(*batch, 9, dtype=torch.float64)
    metric = pb.expected_metric(encoder, x, decoder, batch_dims=len(batch))

    flat = x.reshape(-1, 9)
    z = encoder(flat)[0].detach()
    J_z = dense_jacobian(stacked(decoder), z)
    assert J_z.shape[1] == 9 * (1 + stochastic_decoder)
    G_z = J_z.mT @ J_z
    J_x = dense_jacobian(stacked(encoder), flat).split(3, dim=1)
    assert len(J_x) == 1 + stochastic_encoder
    expected = torch.stack([J.mT @ G_z @ J for J in J_x]).sum(0).reshape(*batch, 9, 9).detach()
    torch.testing.assert_close(metric.to_dense(), expected)
    torch.testing.assert_close(metric.trace(), expected.diagonal(dim1=-2, dim2=-1).sum(-1))
    v = torch.rand(*batch, 9, 2, dtype=torch.float64)
    torch.testing.assert_close(metric @ v, expected @ v)


def test_sampled_metrics_average_to_the_expected_one():
    encoder = pb.as_map(SmoothEncoder(6, 3, dtype=torch.float64), "mean_logvar")
    x = torch.rand(1, 6, dtype=torch.float64)
    copies = x.expand(20_000, 6)
    g = torch.Generator().manual_seed(3)
    draws = pb.sampled_metric(encoder, copies, generator=g).to_dense()
    expected = pb.expected_metric(encoder, x).to_dense()[0]
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() <= 5 * error).all()
    # One draw is the pullback along that very sample of the encoder.
    metric = pb.sampled_metric(encoder, x, generator=torch.Generator().manual_seed(5))
    mean_and_std = metric.jacobian.noise
    J = dense_jacobian(lambda x: encoder(x)[0] + mean_and_std * encoder(x)[1], x)
    torch.testing.assert_close(metric.to_dense(), (J.mT @ J).detach())


def test_sampled_metric_does_not_depend_on_the_batch():
    encoder = pb.as_map(SmoothEncoder(6, 3, dtype=torch.float64), "mean_logvar")
    x = torch.rand(5, 6, dtype=torch.float64)
    whole = pb.sampled_metric(encoder, x, generator=torch.Generator().manual_seed(3)).to_dense()
    g = torch.Generator().manual_seed(3)
    parts = [pb.sampled_metric(encoder, part, generator=g).to_dense() for part in x.split([2, 3])]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_weights_compose_and_mismatches_are_refused():
    J = torch.rand(2, 3, 5, dtype=torch.float64)
    M = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    metric = pb.PullbackMetric(J, M)
    torch.testing.assert_close(metric.to_dense(), J.mT @ M @ J)
    torch.testing.assert_close(metric.diagonal(), (J.mT @ M @ J).diagonal(dim1=1, dim2=2))
    identity = IdentityLinearOperator(5, dtype=J.dtype, device=J.device)
    torch.testing.assert_close((metric + identity).to_dense(), J.mT @ M @ J + torch.eye(5))
    with pytest.raises(ValueError, match=r"weight must have shape \(\.\.\., 3, 3\)"):
        pb.PullbackMetric(J, torch.eye(5))
    with pytest.raises(ValueError, match="batch_dims=2 leaves no event"):
        pb.expected_metric(lambda x: x, J[0], batch_dims=2)


def test_weights_that_a_function_closes_over_may_change():
    net = nn.Linear(4, 3)
    metric = pb.expected_metric(lambda x: net(x).tanh(), torch.rand(2, 4))
    with torch.no_grad():
        before = metric @ torch.ones(2, 4, 1)
        net.weight.mul_(0.5)
        after = metric @ torch.ones(2, 4, 1)
    assert not torch.allclose(before, after)
    fresh = pb.expected_metric(lambda x: net(x).tanh(), metric.jacobian.x)
    torch.testing.assert_close(after, fresh @ torch.ones(2, 4, 1))


def test_one_forward_pass_serves_all_products():
    calls = []

    class Counting(nn.Linear):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    encoder = pb.as_map(Counting(4, 3))
    with torch.no_grad():
        pb.expected_metric(encoder, torch.rand(2, 4)) @ torch.rand(2, 4, 2)  # traced once
    metric = pb.expected_metric(encoder, torch.rand(2, 4))
    calls.clear()
    with torch.no_grad():
        for _ in range(3):
            metric @ torch.rand(2, 4, 2)
        metric.diagonal(), metric.trace()
    assert calls == [1, 2]  # the last sample, by autograd, and all, by the function
    # A changed base point is noticed.
    with torch.no_grad():
        metric.jacobian.x.add_(1)
        metric @ torch.rand(2, 4, 2)
    assert calls == 2 * [1, 2]


def test_the_combined_metric_leaves_the_modules_as_they_are():
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh()).eval()
    decoder = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Sigmoid()).eval()
    chunked = pb.as_map(lambda x: encoder(x).chunk(2, dim=1), returns="mean_logvar")
    for _ in range(2):
        metric = pb.expected_metric(chunked, torch.rand(3, 6), decoder=pb.as_map(decoder))
        _ = metric @ torch.rand(3, 6, 1)
        for module in (encoder, decoder):
            assert all(parameter.requires_grad for parameter in module.parameters())
            assert not any(buffer.requires_grad for buffer in module.buffers())

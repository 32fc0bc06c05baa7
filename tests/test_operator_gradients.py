"""Derivatives of products, of the first and second order, with respect to all that they are of."""

import pytest
import torch
from linear_operator.operators import DiagLinearOperator
from torch import Tensor, nn
from torch.autograd import forward_ad

import pullback as pb
from tests.conftest import SmoothEncoder

BATCHES = [(), (2,)]


def tensor(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, requires_grad=True)


def networks() -> tuple[nn.Module, nn.Module]:
    """An encoder of 3 inputs and 2 latents, and a decoder."""
    encoder, decoder = SmoothEncoder(3, 2, 3), SmoothEncoder(2, 3, 3)
    return encoder.double(), decoder.double()


def check_two_derivatives(product, *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(product, inputs)
    assert torch.autograd.gradgradcheck(product, inputs)


@pytest.mark.parametrize("with_decoder", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_products_of_the_expected_metric(with_decoder, batch):
    networks_used = networks()[: 1 + with_decoder]
    maps = [pb.as_map(network, "mean_logvar") for network in networks_used]
    parameters = [p for network in networks_used for p in network.parameters()]

    def product(x: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        decoder = maps[1] if with_decoder else None
        return pb.expected_metric(maps[0], x, decoder=decoder, batch_dims=len(batch)) @ v

    check_two_derivatives(product, tensor(*batch, 3), tensor(*batch, 3, 1), *parameters)


@pytest.mark.parametrize("with_decoder", [False, True])
def test_maps_that_close_over_their_networks(with_decoder):
    # With a decoder, part of the derivative by the encoder's weights goes through z = μ(x).
    encoder, decoder = networks()
    maps = [pb.as_map(lambda x, f=f: f(x), "mean_logvar") for f in (encoder, decoder)]

    def product(v: Tensor, *_: Tensor) -> Tensor:
        return pb.expected_metric(maps[0], x, decoder=maps[1] if with_decoder else None) @ v

    x = tensor(2, 3).detach()
    parameters = [*encoder.parameters(), *(decoder.parameters() if with_decoder else ())]
    check_two_derivatives(product, tensor(2, 3, 1), *parameters)


def test_products_of_the_jacobian_and_of_a_sampled_metric():
    encoder = pb.as_map(networks()[0], "mean_logvar")
    check_two_derivatives(lambda x, v: pb.jacobian(encoder, x) @ v, tensor(2, 3), tensor(3))
    check_two_derivatives(
        lambda x, u: pb.jacobian(encoder, x).mT @ u, tensor(2, 3), tensor(2, 4, 2)
    )
    check_two_derivatives(
        lambda x, v: torch.matmul(pb.sampled_metric(encoder, x), v), tensor(2, 3), tensor(2, 3, 2)
    )


def test_products_of_what_is_composed_of_a_metric():
    encoder = pb.as_map(networks()[0], "mean_logvar")

    def shifted(x: Tensor, v: Tensor, shifts: Tensor) -> Tensor:
        return (pb.expected_metric(encoder, x) * 2 + DiagLinearOperator(shifts)) @ v

    check_two_derivatives(shifted, tensor(2, 3), tensor(2, 3, 2), tensor(2, 3))


def test_the_diagonal_and_single_entries():
    encoder, decoder = (pb.as_map(network, "mean_logvar") for network in networks())
    check_two_derivatives(
        lambda x: pb.expected_metric(encoder, x, decoder=decoder).diagonal(), tensor(2, 3)
    )
    rows, columns = torch.tensor([0, -1]), torch.tensor([1, 1])
    check_two_derivatives(
        lambda x: pb.expected_metric(encoder, x, decoder=decoder)[..., rows, columns], tensor(2, 3)
    )


def test_factors_given_by_hand():
    J, root = tensor(2, 4, 3), tensor(2, 4, 4)
    check_two_derivatives(
        lambda J, root, v: pb.PullbackMetric(J, root @ root.mT) @ v, J, root, tensor(2, 3, 1)
    )
    gradient = torch.func.grad(lambda J: (pb.PullbackMetric(J) @ torch.ones_like(J.mT)).sum())(J)
    (expected,) = torch.autograd.grad((pb.PullbackMetric(J) @ torch.ones_like(J.mT)).sum(), J)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize(
    "transform",
    [
        torch.func.grad,
        torch.func.vmap,
        lambda f: lambda x: torch.func.jvp(f, (x,), (x,)),
        lambda f: lambda x: torch.func.vjp(f, x),
    ],
)
def test_transforms_of_functions_are_refused_with_what_to_write(transform, no_grad):
    encoder = pb.as_map(networks()[0], "mean_logvar")
    x, v = tensor(2, 3).detach(), tensor(2, 3, 1).detach()
    metric = pb.expected_metric(encoder, x)

    def of_the_input(x: Tensor) -> Tensor:
        return (pb.expected_metric(encoder, x, batch_dims=x.ndim - 1) @ v).sum()

    def of_the_columns(v: Tensor) -> Tensor:
        return (metric @ v).sum()

    with torch.set_grad_enabled(not no_grad):
        for function, argument in ((of_the_input, x), (of_the_columns, v)):
            with pytest.raises(RuntimeError, match=r"write torch\.autograd\.grad.* whole batch"):
                transform(function)(argument)


def test_tangents_of_an_input_are_refused_and_those_of_columns_arrive():
    encoder = pb.as_map(networks()[0], "mean_logvar")
    x, v = tensor(2, 3).detach(), tensor(2, 3, 1).detach()
    tangent = torch.rand_like(v)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for call in (pb.expected_metric, pb.sampled_metric, pb.jacobian, pb.score):
            with pytest.raises(RuntimeError, match=r"tangents of forward mode do not reach"):
                call(encoder, dual)
        with pytest.raises(RuntimeError, match=r"tangents of forward mode do not reach"):
            pb.jacobian(lambda x, y: x * y, x, given=(dual,))
        metric = pb.expected_metric(encoder, x)
        product = forward_ad.unpack_dual(metric @ forward_ad.make_dual(v, tangent))
        torch.testing.assert_close(product.tangent, metric @ tangent)

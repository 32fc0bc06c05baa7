"""Maps that change tensors when they are called: those of the user stay as they were."""

import copy

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.conftest import dense_jacobian

X = torch.rand(3, 6)


class Averaging(nn.Module):
    """Counts its calls, and keeps a running mean that nothing depends on."""

    calls: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.calls = self.calls + 1
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.layer(x).tanh()


class Clamped(nn.Module):
    """Its weights are clamped before they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        with torch.no_grad():
            self.layer.weight.clamp_(-0.1, 0.1)
        return self.layer(x).tanh()


class Renormalised(Clamped):
    """The rows of its weight are cut to unit length first."""

    def forward(self, x):
        self.layer.weight.data = torch.renorm(self.layer.weight.data, 2, 0, 0.2)
        return self.layer(x).tanh()


def normalised() -> nn.Module:
    """By a power iteration, one step of which is done in each call in training mode."""
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)), nn.Tanh())


@pytest.mark.parametrize("make", [Averaging, Clamped, Renormalised, normalised])
def test_a_module_is_left_as_it_was(make):
    net = make()
    encoder, before = pb.as_map(net), copy.deepcopy(net.state_dict())
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    J = dense_jacobian(copy.deepcopy(net), X).detach()
    for _ in range(2):
        torch.testing.assert_close(pb.score(encoder, X, k=2).trace, (J**2).sum((1, 2)))
        metric = pb.expected_metric(encoder, X)
        torch.testing.assert_close(metric.to_dense().detach(), J.mT @ J)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in tensors.items():
        assert getattr(net.get_submodule(name.rpartition(".")[0]), name.split(".")[-1]) is tensor


@pytest.mark.parametrize("make", [Averaging, Clamped, Renormalised])
def test_a_module_behind_a_function_has_to_be_named(make):
    net = make()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"the map changes its '.*' when it is called.*module="):
        pb.score(lambda x: net(x), X, k=2)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert pb.score(pb.as_map(lambda x: net(x), module=net), X, k=2).converged.all()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_reach_parameters_of_which_copies_are_changed():
    net = Clamped()
    pb.expected_metric(pb.as_map(net), X).trace().sum().backward()
    gradient = net.layer.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_what_is_given_may_be_changed_in_place():
    layer, mask = nn.Linear(6, 4), 2 * torch.rand(3, 6)
    before = mask.clone()
    encoder = pb.as_map(lambda x, mask: layer(x * mask.clamp_(0, 1)), "mean")
    J = layer.weight.detach() * mask.clamp(0, 1)[:, None]
    for _ in range(2):
        scores = pb.score(encoder, X, k=2, given=(mask,))
        torch.testing.assert_close(scores.trace, (J**2).sum((1, 2)))
        metric = pb.expected_metric(encoder, X, given=(mask,))
        torch.testing.assert_close(metric.to_dense().detach(), J.mT @ J)
    assert torch.equal(mask, before)

"""Maps that mix the samples of a batch are refused wherever they do; ones that do not are not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.maps.test_declare import X

ALONE = "another result in a batch than alone"
PLACE = "another result at another place of the batch"


class Causal(nn.Module):
    """A transformer layer over the first dimension, each place seeing those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=x.dtype)
        return self.layer(x, src_mask=mask, is_causal=True)


class Gru(nn.Module):
    """A recurrent layer that takes the samples for its time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 4)

    def forward(self, x):
        return self.layer(x)[0]


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
net = nn.Linear(6, 4)
MIXING = {
    "standardised": (lambda x: (x - x.mean(0)) / x.std(0), ALONE),
    "largest": (lambda x: x / x.max(), ALONE),
    "cumsum": (lambda x: x.cumsum(0), PLACE),
    "arange": (lambda x: net(x) * torch.arange(len(x))[:, None], PLACE),
    "labels": (lambda x: net(x) + LABELS[: len(x), None], PLACE),
    "last": (lambda x: torch.cat([x[:-1], x[-1:] + x[:1]]), PLACE),
    "neighbour": (lambda x: net(x) + 0.1 * net(x.roll(1, 0)), "another result"),
    "noise": (lambda x: net(x) + torch.linspace(0, 1, len(x))[:, None], "another result"),
    "constant": (lambda x: net(x) / len(x), ALONE),
    "largest, held": (lambda x: x / x.detach().max(), ALONE),
    "mean, held": (lambda x: x - x.detach().mean(), ALONE),
}


@pytest.mark.filterwarnings("ignore:std\\(\\)")
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("name", MIXING)
def test_mixing(name, count):
    encoder, message = MIXING[name]
    with pytest.raises(ValueError, match=message):
        pb.score(encoder, torch.rand(count, 6), k=2)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", [Gru, Causal])
def test_sequences_without_batch_first(kind, count):
    encoder = kind().eval()
    with pytest.raises(ValueError, match=f"{PLACE}.*batch_first"):
        pb.score(encoder, torch.rand(count, 5, 6), k=2)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_mixing_in_the_derivative_alone(count):
    def encoder(x):
        others = x.mean(0)
        return net(x) + others.sum() - others.detach().sum()

    with pytest.raises(ValueError, match="another derivative in a batch than alone"):
        pb.score(encoder, torch.rand(count, 6), k=2)


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["largest", "cumsum", "labels"])
def test_mixing_of_images_that_are_all_equal(name, fill):
    with pytest.raises(ValueError, match=r"another result|holds NaN"):
        pb.score(MIXING[name][0], torch.full((4, 6), fill), k=2)


def center_groups(x):
    """Each four samples have their mean taken off."""
    groups = [g - g.mean(0) if len(g) == 4 else g for g in x.split(4)]
    return net(torch.cat(groups))


LARGER = {
    "mean": lambda x: net(x - x.mean(0)) if len(x) > 4 else net(x),
    "cumsum": lambda x: net(x.cumsum(0)) if len(x) > 4 else net(x),
    "groups": center_groups,
    "even": lambda x: net(x) * (1 + len(x) % 2),
    "attention": lambda x: net((x @ x.mT).softmax(1) @ x) if len(x) > 3 else net(x),
}


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("name", LARGER)
def test_mixing_in_larger_batches_alone(name, differentiable):
    encoder = pb.as_map(LARGER[name])
    assert pb.jacobian(encoder, X[:1]).shape == (1, 4, 6)
    with torch.set_grad_enabled(differentiable), pytest.raises(ValueError, match=ALONE):
        pb.jacobian(encoder, torch.rand(8, 6))


OF_LARGE_VALUES = {
    "scaled": lambda x: net(x / x.max().clamp(min=1)).tanh(),
    "scaled, held": lambda x: net(x / x.detach().max().clamp(min=1)).tanh(),
    "branch": lambda x: net(x).tanh() if (x > 1).any() else net(x),
    "branch by NumPy": lambda x: net(x).tanh() if x.detach().cpu().numpy().max() > 1 else net(x),
    "branch by an array": lambda x: (
        net(x).tanh() if np.asarray(x.detach().cpu()).max() > 1 else net(x)
    ),
    "branch by DLPack": lambda x: (
        net(x).tanh() if np.from_dlpack(x.detach().cpu()).max() > 1 else net(x)
    ),
    "branch by lists": lambda x: net(x).tanh() if max(map(max, x.tolist())) > 1 else net(x),
    "branch by the mean": lambda x: net(x).tanh() if x.mean() > 1 else net(x),
}


@pytest.mark.parametrize("place", [0, 2, 7])
@pytest.mark.parametrize("name", OF_LARGE_VALUES)
def test_mixing_of_large_values_alone(name, place):
    encoder, x = pb.as_map(OF_LARGE_VALUES[name]), torch.rand(8, 6)
    assert pb.score(encoder, x, k=2).converged.all()
    x[place] = 20 + torch.rand(6)
    with pytest.raises(ValueError, match=r"another (result|derivative) in a batch than alone"):
        pb.score(encoder, x, k=2)


def test_a_batch_of_one_that_loses_its_dimension():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=r"mean has shape \(4,\) for a batch of 1.*squeeze\(\)"):
        pb.score(lambda x: encoder(x).squeeze(), torch.rand(3, 1, 5, 5), k=2)


def test_batches_of_some_sizes_only():
    def even(x):
        if len(x) == 1:
            raise RuntimeError("needs more than one")
        return net(x)

    with pytest.raises(ValueError, match=r"takes a batch of 3 but not one of 1.*needs more"):
        pb.score(even, X, k=2)
    few = torch.rand(2, 4)
    with pytest.raises(ValueError, match="takes a batch of 2 but not one of 3, and must take any"):
        pb.score(lambda x: net(x) + few, X, k=2)

    def growing(x):
        return net(x)[:, : len(x)]

    with pytest.raises(ValueError, match=r"\(3,\) for a sample in a batch of 3, and \(1,\) in"):
        pb.score(growing, X, k=2)


class Chaotic(nn.Module):
    """Rounding errors grow by 2²⁰: a product of one row and of several differ visibly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(784, 300)

    def forward(self, x):
        return (2.0**18 * self.net(x)).sin()


BENIGN: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "chaotic": (Chaotic(), torch.rand(4, 784)),
    "chaotic alone": (Chaotic(), torch.rand(1, 784)),
    "constant": (lambda x: net(x) * 0 + 1, X),
    "zero": (lambda x: x * 0, torch.zeros(3, 6)),
    "round": (lambda x: (5 * net(x)).round() + 0 * x[:, :1], X),
    "black": (net, torch.zeros(1, 6)),
    "equal": (net, torch.full((5, 6), 0.3)),
    "log": (lambda x: (x - 0.999).log(), torch.full((2, 6), 1.0)),
    "log of one place": (lambda x: x[:, :1].log(), torch.tensor([[0.5, -1, -1, -1, -1, -1.0]])),
    "square root": (lambda x: (1 - x).sqrt(), torch.tensor([[0.0, 0.5, 0.999999, 0, 0.2, 0.1]])),
    "large": (lambda x: 1e30 * net(x).tanh(), X),
    "logcumsumexp": (lambda x: net(x).logcumsumexp(1), X),
    "in place": (lambda x: net(x.sub_(0.5).div_(0.25)), X),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BENIGN)
def test_maps_of_independent_samples_are_accepted(name, dtype):
    encoder, x = BENIGN[name]
    for module in pb.as_map(encoder).modules():
        module.to(dtype)
    kept = x.clone()
    assert pb.as_map(encoder).check(x.to(dtype)).num_outputs > 0
    assert torch.equal(x, kept)
    for module in pb.as_map(encoder).modules():
        module.float()


def test_sequences_with_batch_first_are_independent():
    layer = nn.GRU(6, 4, batch_first=True)
    assert pb.as_map(lambda x: layer(x)[0]).check(torch.rand(3, 5, 6)).mean_shape == (5, 4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("optimize", [False, True])
def test_frozen_torchscript(optimize):
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    frozen = torch.jit.freeze(torch.jit.script(plain))
    if optimize:
        frozen = torch.jit.optimize_for_inference(frozen)
    torch.testing.assert_close(
        pb.score(frozen, X, k=2).eigenvalues, pb.score(plain, X, k=2).eigenvalues
    )

"""What holds during one call of the library."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

import pullback as pb

NET = nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 6))

CALLS = {
    "score": lambda x: pb.score(NET, x, 2),
    "eigsh": lambda x: pb.eigsh(pb.expected_metric(NET, x), 2),
    "svds": lambda x: pb.svds(pb.expected_metric(NET, x).jacobian, 2),
    "trace": lambda x: pb.trace(pb.expected_metric(NET, x)),
    "entropy": lambda x: pb.entropy(pb.expected_metric(NET, x)),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_input_that_requires_grad_gives_one_warning(name):
    x = torch.rand(3, 20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[name](x)
        with torch.no_grad():
            CALLS[name](x.clone().requires_grad_())
        assert not caught
        CALLS[name](x.requires_grad_())
    (warning,) = caught
    assert str(warning.message).startswith(f"{name} is not differentiable")
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "read", [lambda G: pb.eigsh(G, 2), lambda G: G @ torch.ones(3, 6, 1)], ids=["solver", "product"]
)
def test_nothing_is_held_of_a_map_and_its_batch_that_nobody_uses(read):
    x, net = torch.rand(3, 6), nn.Linear(6, 4).requires_grad_(False)
    alive = [weakref.ref(thing) for thing in (x, net, net.weight)]
    read(pb.expected_metric(net, x))
    del x, net
    gc.collect()
    assert [thing() for thing in alive] == [None] * 3

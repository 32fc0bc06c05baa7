"""Layers whose derivatives PyTorch computes wrongly, and what happens to others of the kind."""

import pytest
import torch
from torch import Tensor, nn

import pullback as pb


@pytest.mark.parametrize("size", [1, 2])
def test_instance_normalisation_before_convolutions_in_channels_last(size):
    net = nn.Sequential(nn.InstanceNorm2d(4), nn.Conv2d(4, 6, 1, 2), nn.Flatten()).double()
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(size, 4, 6, 4, dtype=torch.float64)
    v = torch.randn_like(x)
    u = torch.randn(size, 36, 1, dtype=torch.float64)
    differences = (net(x + 1e-6 * v) - net(x - 1e-6 * v)) / 2e-6
    with torch.no_grad():
        J = pb.jacobian(pb.as_map(net), x)
        Jv = (J @ v.flatten(1).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(Jv, differences, rtol=1e-6, atol=1e-7)
        both = (J.mT @ u).squeeze(-1) * v.flatten(1), Jv * u.squeeze(-1)
        torch.testing.assert_close(both[0].sum(1), both[1].sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("captured", [False, True])
def test_batch_normalisation_before_tokens(captured, size, dtype):
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)).to(dtype).eval()
    head = nn.Linear(16, 5).to(dtype)
    for statistic in net[1].buffers():
        if statistic.is_floating_point():
            statistic.copy_(0.5 + torch.rand(16))

    def embed(x):
        if not captured:  # values that Python looks at
            x = x if float(x.detach().sum()) > -1e9 else -x
        tokens = net(x).flatten(2).mT
        return head(torch.cat([tokens[:, :1], tokens], 1).tanh()).flatten(1)

    x = torch.randn(size, 3, 4, 4, dtype=dtype)
    v = torch.randn_like(x)
    u = torch.randn(size, 25, 1, dtype=dtype)
    with torch.no_grad():
        J = pb.jacobian(pb.as_map(embed), x)
        Jv, Jtu = (J @ v.flatten(1).unsqueeze(-1)).squeeze(-1), (J.mT @ u).squeeze(-1)
    net, head, v = net.double(), head.double(), v.double()
    differences = (embed(x + 1e-6 * v) - embed(x - 1e-6 * v)) / 2e-6
    pulled, pushed = (Jtu.double() * v.flatten(1)).sum(1), (differences * u.squeeze(-1)).sum(1)
    for found, expected in ((Jv.double(), differences), (pulled, pushed)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Wrong(torch.autograd.Function):
    """3x, whose derivative of the derivative is wrong for batches of four and more."""

    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, g):
        return WrongBackward.apply(g)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g: Tensor):
        return 3 * g

    @staticmethod
    def backward(ctx, v: Tensor):
        return 3 * v if len(v) < 4 else 5 * v


def test_products_that_are_no_adjoints_are_refused():
    net = nn.Linear(6, 4)
    encoder = pb.as_map(lambda x: Wrong.apply(net(x)) if float(x.detach().sum()) > 0 else net(x))
    assert pb.score(encoder, torch.rand(3, 6), k=2).converged.all()
    with pytest.raises(ValueError, match=r"disagree: .*use float64"):
        pb.score(encoder, torch.rand(5, 6), k=2)

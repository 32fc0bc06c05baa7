"""What a map may return, and the sentence that each wrong one gets."""

import functools

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pullback as pb


def linear(outputs: int = 4) -> nn.Linear:
    return nn.Linear(6, outputs)


class Vae(nn.Module):
    """A whole autoencoder; only one of its methods is the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def encode(self, x):
        mean, logvar = self.net(x).chunk(2, 1)
        return mean, logvar

    def forward(self, x):
        raise AssertionError("the encoder is another method")


X = torch.linspace(0, 1, 12).reshape(2, 6)


@pytest.mark.parametrize(
    ("returns", "spread"),
    [
        ("mean_std", lambda std: std),
        ("mean_var", lambda std: std**2),
        ("mean_logvar", lambda std: 2 * std.log()),
    ],
)
def test_three_ways_to_return_a_pair(returns, spread):
    net = linear(6)

    def std(x):
        return net(x).sigmoid()

    encoder = pb.as_map(lambda x: (net(x), spread(std(x))), returns)
    mean, sigma = encoder(X)
    torch.testing.assert_close(mean, net(X))
    torch.testing.assert_close(sigma, std(X))
    assert encoder.check(X) == (torch.Size([6]), torch.Size([6]))
    assert encoder.check(X).num_outputs == 12


@pytest.mark.parametrize("returns", [None, "mean"])
def test_a_tensor_is_a_mean(returns):
    net = linear()
    mean, std = pb.as_map(net, returns)(X)
    torch.testing.assert_close(mean, net(X))
    assert std is None
    assert pb.as_map(net, returns).check(X).num_outputs == 4


@pytest.mark.parametrize("returns", [None, "distribution"])
def test_distributions_have_a_mean_and_a_stddev_or_std(returns):
    class Own:
        def __init__(self, mean, std):
            self.mean, self.std = mean, std

    net = linear()
    for kind in (Normal, Own):
        encoder = pb.as_map(lambda x, kind=kind: kind(net(x), net(x).exp()), returns)
        mean, std = encoder(X)
        torch.testing.assert_close(std, mean.exp())
        assert encoder.check(X).std_shape == (4,)


def test_a_method_of_a_module_brings_its_parameters():
    vae = Vae()
    encoder = pb.as_map(vae.encode, "mean_logvar")
    assert set(encoder.tensors()) == {"net.weight", "net.bias"}
    metric = pb.expected_metric(encoder, X)
    (metric @ torch.rand(2, 6, 1)).sum().backward()
    assert vae.net.weight.grad is not None
    assert vae.net.weight.grad.abs().sum() > 0


def test_image_shapes_of_inputs_and_outputs():
    encoder = pb.as_map(nn.Conv2d(1, 2, 3))
    x = torch.rand(3, 1, 6, 5)
    assert encoder.check(x).mean_shape == (2, 4, 3)
    assert pb.expected_metric(encoder, x).shape == (3, 30, 30)
    assert pb.jacobian(encoder, x).shape == (3, 24, 30)


def test_integer_buffers_come_along():
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([2, 0, 1, 5, 4, 3]))
            self.net = linear()

        def forward(self, x):
            return self.net(x[:, self.order])

    J = pb.jacobian(Permuted(), X)
    assert J.to_dense().shape == (2, 4, 6)


def test_the_behaviour_is_validated_once_per_shape_and_size():
    calls = []

    def encoder(x):
        calls.append(tuple(x.shape))
        return x.flatten(1) * 2

    encoder = pb.as_map(encoder)
    encoder.check(X[:1])
    # Three samples: again, in another order, and each alone.
    assert [shape[0] for shape in calls] == [3, 3, 3, 1, 1, 1]
    encoder.check(X[1:] + 1)
    assert len(calls) == 6
    # Another size: some of the samples alone.
    encoder.check(X)
    assert [shape[0] for shape in calls[6:]] == [2, 1, 1]
    encoder.check(X + 1)
    assert len(calls) == 9
    encoder.check(X[:1].double())
    assert len(calls) == 15


def test_as_map_refuses():
    with pytest.raises(ValueError, match="returns='logvar' is not one of 'mean', 'mean_std'"):
        pb.as_map(linear(), "logvar")
    with pytest.raises(TypeError, match="must be a module or a function, got int"):
        pb.as_map(3)  # type: ignore[arg-type]
    encoder = pb.as_map(linear(), "mean")
    assert pb.as_map(encoder) is encoder is pb.as_map(encoder, "mean")
    with pytest.raises(ValueError, match="contradicts the map's own returns='mean'"):
        pb.as_map(encoder, "mean_std")


@pytest.mark.parametrize(
    "output",
    [
        lambda y: (y, y),
        lambda y: [y, y],
        lambda y: (y, y, y),
        lambda y: {"mean": y, "logvar": y},
        lambda y: None,
    ],
)
def test_undeclared_outputs_name_the_five_choices(output):
    net = linear()
    with pytest.raises(TypeError, match="which could mean several things") as caught:
        pb.score(lambda x: output(net(x)), X)
    for choice in ("mean", "mean_std", "mean_var", "mean_logvar", "distribution"):
        assert repr(choice) in str(caught.value)
    assert "pb.as_map" in str(caught.value)


@pytest.mark.parametrize("returns", ["mean", "mean_std", "mean_logvar", "distribution"])
def test_outputs_that_contradict_the_declaration(returns):
    net = linear()
    encoder = pb.as_map(lambda x: (net(x), net(x), x), returns)
    shapes = r"a tuple \(a tensor of shape \(3, 4\), a tensor of shape \(3, 4\), "
    with pytest.raises(TypeError, match=f"declared returns='{returns}' but returned {shapes}"):
        pb.score(encoder, X)


class Reached(nn.Module):
    """Counts what it has seen, in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(x)


class Holder:
    """A callable object around a module."""

    def __init__(self, net) -> None:
        self.net = net

    def __call__(self, x):
        return self.net(x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: functools.partial(lambda net, x: net(x), net),
        Holder,
        lambda net: lambda x, inner=lambda x: net(x): inner(x),
        lambda net: lambda x, nets=[net]: nets[0](x),
    ],
)
def test_modules_are_found_wherever_a_callable_keeps_them(wrap):
    net = Reached()
    with pytest.raises(ValueError, match="'norm' \\(BatchNorm1d\\) is in training mode"):
        pb.score(wrap(net), X)
    assert net.norm.num_batches_tracked == 0
    assert pb.as_map(wrap(net)).modules() == [net]


def test_wrappers_that_cannot_be_differentiated_twice_are_taken_off():
    net = nn.Linear(6, 3)
    expected = pb.score(net, X, k=2).eigenvalues
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        torch.testing.assert_close(pb.score(wrapped, X, k=2).eigenvalues, expected)


class CompiledInside(nn.Module):
    """A layer that torch.compile has made, between others."""

    def __init__(self, compiled: bool) -> None:
        super().__init__()
        self.layer, self.head = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3)
        if compiled:
            self.layer.compile(backend="aot_eager")

    def forward(self, x):
        return self.head(self.layer(x))


def test_parts_that_are_compiled_run_as_they_were_written():
    plain, net = CompiledInside(compiled=False), CompiledInside(compiled=True)
    net.load_state_dict(plain.state_dict())
    compiled = torch.compile(lambda x: net(x).tanh(), backend="aot_eager")
    expected = net(X), compiled(X)
    for encoder, reference in ((net, plain), (compiled, lambda x: plain(x).tanh())):
        scores = pb.score(encoder, X, k=2)
        torch.testing.assert_close(scores.eigenvalues, pb.score(reference, X, k=2).eigenvalues)
        product = pb.expected_metric(encoder, X) @ torch.ones(6, 1)
        wanted = pb.expected_metric(reference, X) @ torch.ones(6, 1)
        torch.testing.assert_close(product, wanted)
    torch.testing.assert_close((net(X), compiled(X)), expected)


def test_a_product_within_what_is_compiled():
    net = linear()
    product = torch.compile(lambda x, v: pb.expected_metric(net, x) @ v, backend="eager")
    v = torch.rand(len(X), 6, 1)
    torch.testing.assert_close(product(X, v), pb.expected_metric(net, X) @ v)


def test_distributions_without_a_mean():
    from torch.distributions import ExpTransform, TransformedDistribution

    net = linear()
    base = pb.as_map(lambda x: TransformedDistribution(Normal(net(x), 1.0), ExpTransform()))
    with pytest.raises(TypeError, match="an object of type TransformedDistribution"):
        pb.score(base, X)


def test_inference_mode():
    net = linear()
    expected = pb.score(net, X, k=2).eigenvalues
    with torch.inference_mode():
        made_inside = X * 1.0
        torch.testing.assert_close(pb.score(net, X, k=2).eigenvalues, expected)
        torch.testing.assert_close(pb.score(net, made_inside, k=2).eigenvalues, expected)
        other = nn.Linear(6, 4)
        other.load_state_dict(net.state_dict())
    torch.testing.assert_close(pb.score(net, made_inside, k=2).eigenvalues, expected)
    torch.testing.assert_close(pb.score(other, X, k=2).eigenvalues, expected)


def test_a_generator_is_a_generator():
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got 3"):
        pb.score(linear(), X, generator=3)  # type: ignore[arg-type]


def test_weights_changed_after_the_check_are_seen():
    net = linear()
    before = pb.score(net, X, k=3).trace
    with torch.no_grad():
        net.weight.mul_(2)
    torch.testing.assert_close(pb.score(net, X, k=3).trace, 4 * before)

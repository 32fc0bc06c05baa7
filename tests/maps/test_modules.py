"""The module behind a map: found, named, trained through, pickled and loaded."""

import functools
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pullback as pb
from tests.maps.test_declare import Vae, X, linear


class Diffuser(nn.Module):
    """An autoencoder whose encoder returns an object with a distribution in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()
        self.decoder = nn.Linear(2, 6)

    def encode(self, x, scale=1.0):
        mean, logvar = self.net(scale * x).chunk(2, 1)
        return SimpleNamespace(latent_dist=Normal(mean, (logvar / 2).exp()))

    def forward(self, x):
        raise AssertionError("the encoder is another method")


def encode_hidden(vae, x):
    return vae.encode(x)


def function_of(vae):
    return lambda x: vae.encode(x)


WAYS = {
    "method": lambda vae: pb.as_map(vae.encode, "mean_logvar"),
    "partial of a method": lambda vae: pb.as_map(functools.partial(vae.encode), "mean_logvar"),
    "named": lambda vae: pb.as_map(function_of(vae), "mean_logvar", module=vae),
    "named partial": lambda vae: pb.as_map(
        functools.partial(encode_hidden, vae), "mean_logvar", module=vae
    ),
    "named in parallel": lambda vae: pb.as_map(
        function_of(vae), "mean_logvar", module=nn.DataParallel(vae)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_module_takes_part_in_autograd(way):
    vae = Vae()
    encoder = WAYS[way](vae)
    assert encoder.module is vae
    assert set(encoder.tensors()) == {"net.weight", "net.bias"}
    assert encoder.constants() == []
    metric = pb.expected_metric(encoder, X)
    v = torch.rand(2, 6, 1)
    (metric @ v).square().sum().backward()
    assert vae.net.weight.grad is not None
    gradient = vae.net.weight.grad.clone()
    assert gradient.abs().sum() > 0
    vae.net.weight.grad = None
    (pb.expected_metric(pb.as_map(vae.encode, "mean_logvar"), X) @ v).square().sum().backward()
    torch.testing.assert_close(gradient, vae.net.weight.grad)


@pytest.mark.parametrize("way", WAYS)
def test_other_tensors_stand_in_for_those_of_the_module(way):
    vae = Vae()
    encoder = WAYS[way](vae)
    doubled = {name: 2 * tensor for name, tensor in encoder.tensors().items()}
    kept = vae.net.weight
    mean, _ = encoder(X, tensors=doubled)
    torch.testing.assert_close(mean, 2 * encoder(X)[0])
    assert vae.net.weight is kept


def test_a_method_that_returns_an_object_in_one_line():
    vae = Diffuser()
    encoder = pb.as_map(vae.encode, "distribution", pick="latent_dist")
    assert encoder.module is vae
    assert pb.score(encoder, X, k=2).converged.all()
    torch.testing.assert_close(encoder(X)[0], vae.net(X).chunk(2, 1)[0])


def test_partials_keep_their_arguments():
    vae = Diffuser()
    encoder = pb.as_map(functools.partial(vae.encode, scale=2.0), pick="latent_dist")
    assert encoder.module is vae
    torch.testing.assert_close(encoder(X)[0], vae.net(2 * X).chunk(2, 1)[0])
    assert pb.as_map(functools.partial(vae.net)).module is vae.net
    weight = torch.rand(6)
    mask = pb.as_map(functools.partial(encode_with, vae.net, weight), module=vae.net)
    assert [tensor is weight for tensor in mask.constants()] == [True]


def encode_with(net, weight, x):
    return net(weight * x)


@pytest.mark.parametrize("way", ["method", "partial of a method", "named partial"])
def test_pickling_keeps_module_and_function_together(way):
    encoder = WAYS[way](Vae())
    again = pickle.loads(pickle.dumps(encoder))
    torch.testing.assert_close(again(X), encoder(X))
    with torch.no_grad():
        again.module.net.weight.zero_()
        again.module.net.bias.zero_()
    assert (again(X)[0] == 0).all()
    metric = pickle.loads(pickle.dumps(pb.expected_metric(encoder, X)))
    torch.testing.assert_close(metric.to_dense(), pb.expected_metric(encoder, X).to_dense())


def test_modules_that_are_refused():
    vae = Vae()
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, .*got function"):
        pb.as_map(vae.encode, "mean_logvar", module=encode_hidden)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="module=Linear has no part in what the function returns"):
        pb.score(pb.as_map(function_of(vae), "mean_logvar", module=linear()), X)
    encoder = pb.as_map(function_of(vae), "mean_logvar", module=vae)
    assert pb.as_map(encoder, module=vae) is encoder
    with pytest.raises(ValueError, match="module=Linear contradicts the map's own module, Vae"):
        pb.as_map(encoder, module=vae.net)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_has_no_parameters_to_replace():
    scripted = torch.jit.script(linear())
    assert pb.as_map(scripted).module is None
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, and not TorchScript"):
        pb.as_map(lambda x: scripted(x), module=scripted)


class Holder:
    """A callable object around a tensor."""

    def __init__(self, weight) -> None:
        self.weight = weight

    def __call__(self, x):
        return x @ self.weight


def with_default(x, weight=torch.rand(6, 4, dtype=torch.float64)):  # noqa: B008
    return x @ weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: lambda x: net(x), "the map's 'net.weight' is float64"),
        (lambda net: lambda x: x @ net.weight.mT, "the map's 'net.weight' is float64"),
        (lambda net: Holder(net.weight.detach().mT), "the map's 'weight' is float64"),
        (lambda net: with_default, "a tensor of the map is float64"),
        (lambda net: net, "the map's 'weight' is float64"),
        (lambda net: functools.partial(net), "the map's 'weight' is float64"),
    ],
)
def test_weights_of_another_dtype_are_named_wherever_they_are(make, message):
    with pytest.raises(TypeError, match=f"x is float32 but {message}; convert one of them"):
        pb.score(make(linear().double()), X)


def test_an_error_of_another_kind_is_not_blamed_on_a_dtype():
    net, other = linear(), linear().double()
    with pytest.raises(ValueError, match=r"cannot be applied to a batch of shape \(2, 6\): mat1"):
        pb.score(lambda x: net(x[:, :5]) + 0 * other.weight.sum().float(), X)

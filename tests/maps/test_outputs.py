"""How an output is read: what is picked from it, and distributions with correlated noise."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical as Choice
from torch.distributions import (
    Dirichlet,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform, ExpTransform

import pullback as pb
from tests.conftest import dense_jacobian

X = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(2, 6)
net = nn.Linear(6, 12).double()


class Output(OrderedDict):
    """An ordered dictionary that also has its entries as attributes and by index."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


@dataclass
class Record:
    embedding: Tensor
    log_covariance: Tensor


def halves(x):
    return net(x).tanh().chunk(2, 1)


WAYS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "dict": (lambda x: dict(zip(("a", "b"), halves(x), strict=True)), ("a", "b")),
    "output": (lambda x: Output(zip("ab", halves(x), strict=True)), ("a", "b")),
    "output by index": (lambda x: Output(zip("ab", halves(x), strict=True)), (0, 1)),
    "record": (lambda x: Record(*halves(x)), ("embedding", "log_covariance")),
    "three": (lambda x: (*halves(x), x), (0, 1)),
    "from the end": (lambda x: [x, *halves(x)], (-2, -1)),
    "numbered": (lambda x: dict(zip((3, 4), halves(x), strict=True)), [3, 4]),
}


@pytest.mark.parametrize("way", WAYS)
def test_picking(way):
    fn, pick = WAYS[way]
    mean, std = pb.as_map(fn, "mean_logvar", pick=pick)(X)
    torch.testing.assert_close(mean, halves(X)[0])
    torch.testing.assert_close(std, (halves(X)[1] / 2).exp())
    mean, std = pb.as_map(fn, "mean", pick=pick[1])(X)
    torch.testing.assert_close(mean, halves(X)[1])
    assert std is None
    metric = pb.expected_metric(pb.as_map(fn, pick=pick[0]), X)
    J = dense_jacobian(lambda x: halves(x)[0], X)
    torch.testing.assert_close(metric.to_dense(), J.mT @ J)


def test_picking_a_distribution_or_its_parts():
    def encode(x):
        mean, raw = halves(x)
        return SimpleNamespace(latent_dist=Normal(mean, raw.exp()))

    encoder = pb.as_map(encode, "distribution", pick="latent_dist")
    torch.testing.assert_close(encoder(X)[1], halves(X)[1].exp())
    inner = pb.as_map(lambda x: encode(x).latent_dist, "mean_std", pick=("loc", "scale"))
    torch.testing.assert_close(inner(X), encoder(X))
    pair = pb.as_map(lambda x: (encode(x).latent_dist, x), pick=0)
    torch.testing.assert_close(pair(X), encoder(X))


@pytest.mark.parametrize(
    ("fn", "pick", "there"),
    [
        (WAYS["dict"][0], "c", r"a dict with keys \['a', 'b'\]"),
        (WAYS["dict"][0], "values", r"a dict with keys \['a', 'b'\]"),
        (WAYS["output"][0], "c", r"an Output with keys \['a', 'b'\]"),
        (WAYS["record"][0], "mean", "type Record with embedding, log_covariance"),
        (WAYS["record"][0], 0, "type Record with embedding, log_covariance"),
        (WAYS["three"][0], 3, r"a tuple \(a tensor of shape"),
        (WAYS["three"][0], "count", r"a tuple \(a tensor of shape"),
        (net, 0, "a tensor of shape"),
        (net, "mean", "a tensor of shape"),
    ],
)
def test_wrong_picks_name_what_there_is(fn, pick, there):
    with pytest.raises(ValueError, match=f"pick={pick!r} names nothing in what the map.*{there}"):
        pb.score(pb.as_map(fn, pick=pick), X)


def test_declarations_of_picks():
    wrong: list[Any] = [1.5, True, ("a",), ("a", "b", "c"), ("a", None), {"a"}]
    for pick in wrong:
        with pytest.raises(TypeError, match=r"pick=.* must be a key, an attribute or an index"):
            pb.as_map(net, "mean_std", pick=pick)
    for returns in (None, "mean", "distribution"):
        with pytest.raises(ValueError, match=r"pick=\('a', 'b'\) names a pair, which is read by"):
            pb.as_map(net, returns, pick=("a", "b"))
    listed: Any = ["a", "b"]  # as of a configuration file
    encoder = pb.as_map(net, "mean_std", pick=listed)
    assert pb.as_map(encoder, pick=listed) is pb.as_map(encoder, pick=("a", "b")) is encoder
    with pytest.raises(ValueError, match="pick='c' contradicts the map's own pick=\\('a', 'b'\\)"):
        pb.as_map(encoder, pick="c")
    assert "pick=('a', 'b')" in repr(encoder)


@pytest.mark.parametrize(
    ("fn", "returns", "advice"),
    [
        (WAYS["dict"][0], None, r"keys \['a', 'b'\].*'mean_logvar', pick=\('a', 'b'\)\)"),
        (WAYS["dict"][0], "mean", r"keys \['a', 'b'\].*'mean', pick='a'\)"),
        (WAYS["output"][0], "mean_std", r"keys \['a', 'b'\].*'mean_std', pick=\('a', 'b'\)\)"),
        (WAYS["record"][0], None, r"pick=\('embedding', 'log_covariance'\)"),
        (lambda x: (Normal(x, 1.0), x), None, "pick=0"),
        (lambda x: {"z": x, "q": Normal(x, 1.0)}, "distribution", "pick='q'"),
        (lambda x: (x,), "mean", "pick=0"),
        (lambda x: None, None, "type NoneType.*of a function that returns just that"),
        (lambda x: (net(x), x, x), "mean_logvar", r"pick=\(0, 1\)"),
    ],
)
def test_messages_suggest_a_pick(fn, returns, advice):
    with pytest.raises(TypeError, match=f"{advice}"):
        pb.score(pb.as_map(fn, returns), X)


def test_a_pick_that_is_not_what_was_declared():
    encoder = pb.as_map(WAYS["dict"][0], "distribution", pick="a")
    with pytest.raises(TypeError, match=r"returned a tensor of shape \(3, 6\), picked by pick='a'"):
        pb.score(encoder, X)


def factors(x):
    """Mean (B, 3), and a lower triangle (B, 3, 3) with a positive diagonal."""
    mean, rest = net(x).split([3, 9], 1)
    lower = rest.reshape(-1, 3, 3).tril(-1) + rest[:, :3].exp().diag_embed()
    return mean, lower


def triangular(x):
    return MultivariateNormal(factors(x)[0], scale_tril=factors(x)[1], validate_args=False)


def covariance(x):
    mean, lower = factors(x)
    return MultivariateNormal(mean, covariance_matrix=lower @ lower.mT, validate_args=False)


def low_rank(x):
    mean, wide, raw, _ = net(x).split([3, 3, 3, 3], 1)
    return LowRankMultivariateNormal(mean, wide.unsqueeze(-1), raw.exp(), validate_args=False)


def low_rank_factor(x):
    mean, wide, raw, _ = net(x).split([3, 3, 3, 3], 1)
    return mean, torch.cat([wide.unsqueeze(-1), (raw / 2).exp().diag_embed()], 2)


CORRELATED = {
    "triangular": (triangular, factors),
    "covariance": (covariance, factors),
    "low rank": (low_rank, low_rank_factor),
}


@pytest.mark.parametrize("kind", CORRELATED)
def test_correlated_noise_counts_whole(kind):
    fn, expected = CORRELATED[kind]
    encoder = pb.as_map(fn, "distribution")
    torch.testing.assert_close(encoder(X), expected(X))
    columns = expected(X)[1].shape[-1]
    assert encoder.check(X).num_outputs == 3 * (1 + columns)
    J = [dense_jacobian(f, X) for f in (lambda x: expected(x)[0], lambda x: expected(x)[1])]
    expectation = sum(part.mT @ part for part in J)
    metric = pb.expected_metric(fn, X)
    torch.testing.assert_close(metric.to_dense(), expectation)
    values = torch.linalg.eigvalsh(expectation).flip(-1)
    torch.testing.assert_close(pb.score(fn, X, k=3).eigenvalues, values[:, :3])


@pytest.mark.parametrize("kind", CORRELATED)
def test_samples_with_correlated_noise(kind):
    fn, expected = CORRELATED[kind]
    metric = pb.sampled_metric(fn, X, generator=torch.Generator().manual_seed(2))
    noise = metric.jacobian.noise

    def sample(x):
        mean, factor = expected(x)
        return mean + (factor @ noise.unsqueeze(-1)).squeeze(-1)

    J = dense_jacobian(sample, X)
    torch.testing.assert_close(metric.to_dense(), J.mT @ J)


@pytest.mark.parametrize("kind", CORRELATED)
def test_correlated_noise_before_a_decoder(kind):
    fn, expected = CORRELATED[kind]
    decode = nn.Sequential(nn.Linear(3, 7), nn.Tanh()).double()
    metric = pb.expected_metric(fn, X, decode)
    J_z = dense_jacobian(decode, expected(X)[0])
    M = J_z.mT @ J_z

    def column(c: int) -> Callable[[Tensor], Tensor]:
        return lambda x: expected(x)[1][..., c]

    parts = [dense_jacobian(lambda x: expected(x)[0], X)]
    parts += [dense_jacobian(column(c), X) for c in range(expected(X)[1].shape[-1])]
    torch.testing.assert_close(metric.to_dense(), sum(J.mT @ M @ J for J in parts))


def test_correlated_noise_of_several_positions():
    def fn(x):
        mean = torch.stack([net(x)[:, :2], net(x)[:, 2:4].tanh()], 1)  # (B, 2, 2)
        lower = net(x)[:, 4:].reshape(-1, 2, 2, 2).tril(-1) + mean.exp().diag_embed()
        return MultivariateNormal(mean, scale_tril=lower, validate_args=False)

    outer = pb.as_map(lambda x: Independent(fn(x), 1), "distribution")
    J = [dense_jacobian(f, X) for f in (lambda x: fn(x).loc, lambda x: fn(x).scale_tril)]
    expected = sum(part.mT @ part for part in J)
    torch.testing.assert_close(pb.expected_metric(outer, X).to_dense(), expected)
    sampled = pb.sampled_metric(outer, X)
    noise = sampled.jacobian.noise.reshape(2, 2, 2, 1)
    J_sampled = dense_jacobian(lambda x: fn(x).loc + (fn(x).scale_tril @ noise).squeeze(-1), X)
    torch.testing.assert_close(sampled.to_dense(), J_sampled.mT @ J_sampled)


def test_independent_noise_stays_a_std():
    encoder = pb.as_map(lambda x: Independent(Normal(net(x), net(x).exp()), 1))
    torch.testing.assert_close(encoder(X), (net(X), net(X).exp()))
    skewed = pb.as_map(lambda x: LogNormal(net(x), 0.1 * net(x).exp()))
    assert skewed.check(X).std_shape == (12,)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: Dirichlet(net(x).exp()), "type Dirichlet, whose numbers are correlated"),
        (
            lambda x: MixtureSameFamily(
                Choice(logits=net(x)[:, :2]),
                Independent(Normal(net(x).reshape(-1, 2, 6), 1.0), 1),
            ),
            "type MixtureSameFamily, whose numbers are correlated",
        ),
        (
            lambda x: TransformedDistribution(Normal(net(x), 1.0), ExpTransform()),
            "type TransformedDistribution, whose mean and standard deviation are not known",
        ),
        (
            lambda x: Independent(TransformedDistribution(Normal(net(x), 1.0), ExpTransform()), 1),
            "type TransformedDistribution .in an Independent., whose mean and standard",
        ),
        (
            lambda x: TransformedDistribution(triangular(x), AffineTransform(0.0, 2.0)),
            "type TransformedDistribution, whose numbers are correlated",
        ),
    ],
)
@pytest.mark.parametrize("returns", [None, "distribution"])
def test_other_distributions_are_refused_by_name(fn, message, returns):
    with pytest.raises(TypeError, match=message):
        pb.score(pb.as_map(fn, returns), X)


def test_a_normal_distribution_of_matrices_is_refused():
    class OfMatrices(MultivariateNormal):
        """Rows and columns of a matrix, as gpytorch has them for several tasks."""

        @property
        def mean(self):
            return self.loc.unflatten(-1, (3, 1))

    encoder = pb.as_map(lambda x: OfMatrices(factors(x)[0], scale_tril=factors(x)[1]))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 1\) and the factor .*\(2, 3, 3\)"):
        pb.score(encoder, X)


def test_other_objects_with_a_covariance_are_refused():
    class Posterior:
        def __init__(self, x):
            self.mean = factors(x)[0]
            self.covariance_matrix = factors(x)[1] @ factors(x)[1].mT
            self.std = self.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()

    with pytest.raises(TypeError, match=r"type Posterior with mean.*numbers are correlated"):
        pb.score(pb.as_map(Posterior, "distribution"), X)


def test_a_pair_with_a_matrix_is_no_factor():
    encoder = pb.as_map(factors, "mean_std")
    with pytest.raises(ValueError, match=r"mean has shape \(2, 3\) and its std \(2, 3, 3\)"):
        pb.score(encoder, X)

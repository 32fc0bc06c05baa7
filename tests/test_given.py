"""Further arguments of a map for each sample: labels, masks, time steps."""

import copy
import pickle

import pytest
import torch
from torch import nn

import pullback as pb
from tests.attacks.conftest import ATTACKS
from tests.conftest import dense_jacobian, stacked


class Conditional(nn.Module):
    """A conditional VAE: encoder and decoder are told the label of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 5)
        self.inward = nn.Linear(6 + 5, 8)
        self.outward = nn.Linear(4 + 5, 6)

    def encode(self, x, label):
        mean, raw = self.inward(torch.cat([x, self.embed(label)], 1)).tanh().chunk(2, 1)
        return mean, raw

    def decode(self, z, label):
        return self.outward(torch.cat([z, self.embed(label)], 1)).tanh()


vae = Conditional().double()
X = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([2, 0, 1, 2, 1])
encoder = pb.as_map(vae.encode, "mean_logvar")


def labelled(labels):
    return lambda x: encoder(x, labels)


def dense(labels, x=X):
    """The metrics, from one label at a time."""
    parts = []
    for i, label in enumerate(labels):
        J = dense_jacobian(stacked(labelled(label.expand(1))), x[i : i + 1])
        parts.append(J.mT @ J)
    return torch.cat(parts)


def test_every_sample_has_its_own_label():
    metric = pb.expected_metric(encoder, X, given=(LABELS,))
    torch.testing.assert_close(metric.to_dense(), dense(LABELS))
    other = pb.expected_metric(encoder, X, given=(LABELS.flip(0),))
    torch.testing.assert_close(other.to_dense(), dense(LABELS.flip(0)))
    J = pb.jacobian(encoder, X, given=(LABELS,)).to_dense()
    torch.testing.assert_close(J.mT @ J, dense(LABELS))


@pytest.mark.parametrize("method", ["auto", "dual", "golub-kahan", "lanczos", "lobpcg", "nystrom"])
def test_scores_of_a_conditional_encoder(method):
    values = torch.linalg.eigvalsh(dense(LABELS)).flip(-1)
    scores = pb.score(encoder, X, k=3, method=method, given=(LABELS,))
    torch.testing.assert_close(scores.eigenvalues, values[:, :3], rtol=1e-4, atol=1e-8)
    for batch in (1, 2):
        generator = torch.Generator().manual_seed(0)
        parts = [
            pb.score(encoder, x, k=3, method=method, generator=generator, given=(labels,))
            for x, labels in zip(X.split(batch), LABELS.split(batch), strict=True)
        ]
        joined = torch.cat([part.eigenvalues for part in parts])
        torch.testing.assert_close(joined, values[:, :3], rtol=1e-4, atol=1e-8)


def test_a_conditional_vae_with_its_decoder():
    metric = pb.expected_metric(encoder, X, vae.decode, given=(LABELS,))
    mean = encoder(X, LABELS)[0]
    J = dense_jacobian(stacked(labelled(LABELS)), X).chunk(2, dim=1)
    J_z = dense_jacobian(lambda z: vae.decode(z, LABELS), mean)
    expected = sum(part.mT @ J_z.mT @ J_z @ part for part in J)
    torch.testing.assert_close(metric.to_dense(), expected)
    values = torch.linalg.eigvalsh(expected).flip(-1)[:, :3]
    scores = pb.score(encoder, X, k=3, decoder=vae.decode, given=(LABELS,))
    torch.testing.assert_close(scores.eigenvalues, values)


def test_a_sampled_metric_of_a_conditional_encoder():
    metric = pb.sampled_metric(encoder, X, given=(LABELS,), generator=torch.Generator())
    noise = metric.jacobian.noise

    def sample(x):
        mean, std = encoder(x, LABELS)
        return mean + noise * std

    J = dense_jacobian(sample, X)
    torch.testing.assert_close(metric.to_dense(), J.mT @ J)


def test_operations_on_the_operator_take_the_labels_along():
    metric = pb.expected_metric(encoder, X, given=(LABELS,))
    expected = dense(LABELS)
    torch.testing.assert_close(metric[1:4].to_dense(), expected[1:4])
    torch.testing.assert_close(metric[3].to_dense(), expected[3])
    index = torch.tensor([4, 0])
    torch.testing.assert_close(metric[index].to_dense(), expected[index])
    torch.testing.assert_close(metric.unsqueeze(0).to_dense(), expected.unsqueeze(0))
    torch.testing.assert_close(metric.diagonal(), expected.diagonal(dim1=1, dim2=2))
    for copied in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        torch.testing.assert_close(copied.to_dense(), expected)
    for moved in (metric.to(torch.float64), metric.float().double(), metric.to("cpu")):
        assert moved.jacobian.samplewise[0].dtype == torch.int64
        torch.testing.assert_close(moved.to_dense(), expected, rtol=1e-4, atol=1e-5)


def test_several_arguments_of_any_shape_and_dtype():
    net = nn.Linear(6, 4).double()

    def fn(x, mask, time, shift):
        return net(x.masked_fill(mask, 0.0)) * (time[:, None].float() / 7).cos() + shift.sum((1, 2))

    mask = torch.rand(5, 6) < 0.3
    time = torch.arange(5)
    shift = torch.rand(5, 2, 2, 4, dtype=torch.float64)
    given = mask, time, shift
    expected = dense_jacobian(lambda x: fn(x, *given), X)
    torch.testing.assert_close(pb.jacobian(fn, X, given=given).to_dense(), expected)
    torch.testing.assert_close(pb.jacobian(fn, X, given=[*given]).to_dense(), expected)
    nested = pb.jacobian(
        fn, X[:4].reshape(2, 2, 6), given=[t[:4].unflatten(0, (2, 2)) for t in given], batch_dims=2
    )
    torch.testing.assert_close(nested.to_dense().flatten(0, 1), expected[:4])
    single = pb.jacobian(fn, X[2], given=[t[2] for t in given], batch_dims=0)
    torch.testing.assert_close(single.to_dense(), expected[2])


def test_gradients_pass_by_what_is_given():
    scale = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)
    net = nn.Linear(6, 4).double()
    metric = pb.expected_metric(
        pb.as_map(lambda x, s: net(s * x), module=net), X.clone().requires_grad_(), given=(scale,)
    )
    torch.testing.assert_close(
        metric.to_dense(), scale[:, :, None] ** 2 * (net.weight.mT @ net.weight)
    )
    (gradient,) = torch.autograd.grad((metric @ torch.ones(5, 6, 1).double()).sum(), scale)
    expected = 2 * scale * (net.weight.mT @ net.weight).sum()
    torch.testing.assert_close(gradient, expected)


def test_in_inference_mode():
    expected = pb.score(encoder, X, k=2, given=(LABELS,)).eigenvalues
    with torch.inference_mode():
        labels = LABELS.clone()
        torch.testing.assert_close(pb.score(encoder, X, k=2, given=(labels,)).eigenvalues, expected)
    torch.testing.assert_close(pb.score(encoder, X, k=2, given=(labels,)).eigenvalues, expected)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks(attack):
    apply = attack(encoder, eps=0.3, clip=(0, 1), reconstruct=vae.decode)
    result = apply(X, torch.Generator().manual_seed(3), given=(LABELS,))
    with torch.no_grad():
        distance = (encoder(result.x, LABELS)[0] - encoder(X, LABELS)[0]).norm(dim=1)
        error = (vae.decode(encoder(result.x, LABELS)[0], LABELS) - X).square().mean(1)
    torch.testing.assert_close(result.latent_distance, distance)
    torch.testing.assert_close(result.reconstruction_error, error)
    generator = torch.Generator().manual_seed(3)
    parts = [
        apply(x, generator, given=(labels,)).latent_distance
        for x, labels in zip(X.split(2), LABELS.split(2), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), distance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (LABELS, TypeError, r"must be a tuple of tensors, got Tensor; write given=\(tensor,\)"),
        (3, TypeError, "given must be a tuple of tensors, got int"),
        (([0, 1],), TypeError, r"given\[0\] must be a torch tensor, got list"),
        ((LABELS, LABELS[:4]), ValueError, r"given\[1\] has shape \(4,\), but must start with \(5"),
        ((LABELS[0],), ValueError, r"given\[0\] has shape \(\), but must start with \(5,\)"),
        ((), ValueError, r"cannot be applied to a batch of shape \(5, 6\): .* 'label'"),
        (
            (LABELS, LABELS),
            ValueError,
            r"\(5, 6\) with given tensors of shape \(5,\), \(5,\): .* positional",
        ),
    ],
)
def test_what_cannot_be_given(given, error, message):
    for call in (
        lambda: pb.score(encoder, X, given=given),
        lambda: pb.attacks.RandomAttack(encoder, eps=0.1)(X, given=given),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_map_that_mixes_labels_is_refused():
    def shifted(x, label):
        return x + label.roll(1)[:, None]

    with pytest.raises(ValueError, match="another result"):
        pb.score(shifted, X, given=(LABELS,))
    labels = torch.tensor([[1.0], [1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        pb.score(lambda x, y: x * (y - y.mean()), X, given=(labels,))


GIVEN = {
    "of width zero": torch.zeros(5, 0),
    "of shape zero": torch.zeros(5, 2, 0),
    "float8": LABELS[:, None].to(torch.float8_e4m3fn),
    "bfloat16": LABELS[:, None].bfloat16(),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_unusual_tensors(kind):
    given, layer = GIVEN[kind], nn.Linear(6, 4).double()

    def fn(x, more):
        plain = more.float()
        return layer(x).tanh() * (1 + plain.to(x).flatten(1).sum(1, keepdim=True))

    J = dense_jacobian(lambda x: fn(x, given), X).detach()
    v = torch.rand(5, 6, 2, dtype=torch.float64)
    for differentiable in (False, True):
        with torch.set_grad_enabled(differentiable):
            metric = pb.expected_metric(fn, X, given=(given,))
            torch.testing.assert_close(metric @ v, J.mT @ (J @ v))
    torch.testing.assert_close(pb.score(fn, X, k=2, given=(given,)).trace, (J**2).sum((1, 2)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(layout):
    nested = torch.nested.nested_tensor([X[0], X[1]], layout=layout)
    for call in (lambda: pb.score(encoder, nested), lambda: pb.score(encoder, X, given=(nested,))):
        with pytest.raises(TypeError, match=r"must be a dense tensor with values, .* is nested"):
            call()

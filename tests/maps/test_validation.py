"""What an input and a map must satisfy, and the sentence for each that does not."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pullback as pb
from pullback.arguments import usable_device
from tests.conftest import SmoothEncoder
from tests.maps.test_declare import X, linear


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm1d(6), "BatchNorm1d"),
        (nn.Dropout(0.1), "Dropout"),
        (nn.AlphaDropout(), "AlphaDropout"),
        (nn.SyncBatchNorm(6), "SyncBatchNorm"),
        (nn.InstanceNorm1d(1, track_running_stats=True), "InstanceNorm1d"),
    ],
)
def test_training_mode_is_refused_before_anything_runs(layer, name):
    net = nn.Sequential(layer, nn.Linear(6, 3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    # As a module, behind a method, and inside a function.
    for encoder in (net, net.forward, lambda x: net(x)):
        with pytest.raises(ValueError, match=rf"'0' \({name}\) is in training mode.*\.eval\(\)"):
            pb.score(encoder, X)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_training_mode_is_noticed_in_every_call():
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout()).eval()
    encoder = pb.as_map(net)
    pb.score(encoder, X, k=1)
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        pb.score(encoder, X, k=1)


def test_training_flags_that_change_nothing_are_accepted():
    assert pb.score(linear(), X, k=1).converged.all()


def test_randomness_and_mixing_of_samples_are_found_by_behaviour():
    net = linear()
    with pytest.raises(ValueError, match="two different results for the same input"):
        pb.score(lambda x: nn.functional.dropout(net(x), 0.3), X)
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        pb.score(lambda x: net(x) - net(x).mean(0), X)
    # A batch of one is tested for it as well.
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        pb.score(lambda x: net(x) - net(x).mean(0), X[:1])


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_faint_randomness_and_faint_mixing_are_found_as_well(strength):
    net = linear()
    with pytest.raises(ValueError, match="two different results for the same input"):
        pb.score(lambda x: net(x) + strength * torch.randn(len(x), 4), X)
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        pb.score(lambda x: net(x) + 10 * strength * net(x).mean(0), X)


@pytest.mark.parametrize("x", [torch.full((1, 6), 0.5), torch.zeros(1, 6), torch.ones(3, 6)])
def test_mixing_is_found_for_constant_images_too(x):
    with pytest.raises(ValueError, match="another result in a batch than alone"):
        pb.score(lambda x: x - 0.5 * x.mean(0), x)


@pytest.mark.parametrize(
    ("encoder", "x"),
    [
        (lambda x: (x + 1).log(), 255 * torch.rand(4, 6)),
        (lambda x: (x - 1).sqrt(), 1.1 + torch.rand(4, 6)),
        (lambda x: (x - 1).sqrt(), 1.1 + torch.rand(1, 6)),
    ],
)
def test_variants_of_samples_stay_where_the_inputs_are(encoder, x):
    assert pb.score(encoder, x, k=2).converged.all()


def test_instance_statistics_do_not_mix_samples():
    net = nn.Sequential(nn.InstanceNorm1d(1), nn.Flatten())
    assert pb.score(net, torch.rand(2, 1, 6), k=2).converged.all()


def test_maps_without_a_second_derivative_are_refused():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g.exp()

    with pytest.raises(ValueError, match="cannot be differentiated twice by autograd"):
        pb.score(Once.apply, X)

    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach())

    with pytest.raises(ValueError, match="does not depend on x through autograd"):
        pb.score(Cut(6, 3), X)


@pytest.mark.parametrize("metric", [pb.expected_metric, pb.sampled_metric])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("place", [0, 4])
def test_a_std_that_is_negative_later(place, differentiable, metric):
    net = linear()
    encoders = [
        pb.as_map(lambda x: (net(x), x[:, :4]), "mean_std"),
        pb.as_map(lambda x: Normal(net(x), x[:, :4], validate_args=False)),
    ]
    x = torch.rand(5, 6) + 0.1
    x[place, 1] = -0.1
    for encoder in encoders:
        assert metric(encoder, X + 0.1).shape == (len(X), 6, 6)
        with torch.set_grad_enabled(differentiable):
            later = metric(encoder, x.requires_grad_(differentiable))
            with pytest.raises(ValueError, match=f"or a negative std in sample {place}"):
                later @ torch.rand(5, 6, 1)


def test_maps_that_keep_results_are_refused():
    class Remembering(nn.Linear):
        """Returns what it returned for equal inputs before."""

        def __init__(self) -> None:
            super().__init__(6, 4)
            self.kept: dict[bytes, torch.Tensor] = {}

        def forward(self, x):
            key = x.detach().cpu().numpy().tobytes()
            if key not in self.kept:
                self.kept[key] = super().forward(x).tanh()
            return self.kept[key]

    for x in (X, X[:1], torch.full((2, 6), 0.5)):
        with pytest.raises(ValueError, match=r"through autograd; .*kept from earlier calls"):
            pb.score(Remembering(), x, k=2)


def test_outputs_that_have_no_metric():
    net = linear()
    cases = {
        "mean has shape .* and its std .*must match": lambda x: (net(x), net(x)[:, :2].exp()),
        "std must be positive, got -": lambda x: (net(x), -net(x).exp()),
        r"mean has shape \(4,\) for a batch of 3": lambda x: (net(x).sum(0), net(x).sum(0)),
        "mean holds NaN": lambda x: (net(x) * torch.nan, net(x).exp()),
        "float64 for float32 inputs": lambda x: (net(x).double(), net(x).exp()),
        "does not depend on x through autograd": lambda x: (
            net(x).detach(),
            net(x).detach().exp(),
        ),
    }
    for message, encoder in cases.items():
        with pytest.raises((ValueError, TypeError), match=message):
            pb.score(pb.as_map(encoder, "mean_std"), X)


def test_a_saturated_map_is_fine():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    for scale in (1, 100, 1000):
        for _ in range(10):
            x = torch.randn(2, 20)
            pb.as_map(lambda x, s=scale: (s * net(x)).softmax(1)).check(x)


@pytest.mark.parametrize("step", [torch.round, torch.sign])
def test_a_map_of_steps_has_a_zero_metric(step):
    net = linear()
    with pytest.warns(pb.RankWarning):
        scores = pb.score(lambda x: step(net(x)), X, k=2)
    assert (scores.eigenvalues == 0).all()


@pytest.mark.parametrize("method", ["dual", "golub-kahan"])
def test_products_that_are_not_finite_are_refused(method):
    net = linear()

    def standardised(x):
        return net((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-2))

    x = torch.rand(4, 6)
    x[3] = 0.25
    with pytest.raises(ValueError, match="derivative is NaN or infinite in sample 3"):
        pb.score(standardised, x, k=2, method=method)


@pytest.mark.filterwarnings("ignore::pullback.RankWarning")
def test_eigenvalues_beyond_the_range_of_the_dtype():
    with pytest.raises(ValueError, match=r"exceed the range of torch\.float32; use float64"):
        pb.score(lambda x: x.tanh() * 1e20, X, k=2)
    assert pb.score(lambda x: x.tanh() * 1e20, X.double(), k=2).converged.all()


def test_dtypes_inside_a_map_are_its_own_affair():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 3).bfloat16()
            self.register_buffer("unused", torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            return self.net(x.bfloat16()).float()

    assert pb.as_map(Mixed()).check(X).num_outputs == 3


def test_layers_without_values_or_statistics():
    with pytest.raises(ValueError, match="lazy parameters without values; run it on a batch"):
        pb.score(nn.LazyLinear(3), X)
    with pytest.raises(ValueError, match="BatchNorm1d\\) has no running statistics"):
        pb.score(nn.BatchNorm1d(6, track_running_stats=False).eval(), X)


def test_a_std_that_is_constant_is_fine():
    net = linear()
    encoder = pb.as_map(lambda x: (net(x), torch.ones(len(x), 4)), "mean_std")
    torch.testing.assert_close(pb.score(encoder, X, k=3).trace, pb.score(net, X, k=3).trace)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[0.0]], TypeError, "x must be a torch tensor, got list"),
        (torch.zeros(2, 6, dtype=torch.uint8), TypeError, "got uint8; for images in bytes"),
        (torch.zeros(2, 6).half(), TypeError, "x must be float32 or float64, got float16"),
        (
            torch.zeros(2, 6, device="cpu").to_sparse(),
            TypeError,
            "dense .*, got one in layout torch.sparse_coo",
        ),
        (torch.zeros(2, 6, device="meta"), TypeError, "dense tensor with values, got one on the m"),
        (torch.zeros(0, 6), ValueError, r"at least one sample .* got shape \(0, 6\)"),
        (torch.zeros(6), ValueError, "leaves no event"),
        (torch.ones(2, 6, dtype=torch.float64), TypeError, "x is float64 but the map's 'weight'"),
        (torch.zeros(2, 5), ValueError, r"cannot be applied to a batch of shape \(2, 5\): mat1"),
    ],
)
def test_inputs_that_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        pb.score(linear(), x)


def test_samples_that_are_not_finite_are_named():
    x = torch.rand(20, 6)
    x[3, 2] = torch.nan
    x[11] = torch.inf
    with pytest.raises(ValueError, match=r"x holds NaN or infinite values in sample 3, 11$"):
        pb.score(linear(), x)
    # The same of what the encoder makes of a finite sample.
    net = linear()
    x = torch.rand(5, 6)
    x[3] = 100
    with pytest.raises(ValueError, match="NaN, infinite values or a negative std in sample 3"):
        pb.score(lambda x: (20 * net(x).abs()).exp() + x.sum(1, keepdim=True).exp(), x)


def test_encoders_in_float64_and_ones_with_a_fixed_input_size():
    assert pb.score(SmoothEncoder(6, 2, dtype=torch.float64).hidden, X.double()).trace.dtype == (
        torch.float64
    )


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here: "):
        usable_device(name)
    assert usable_device("cpu") == torch.device("cpu")

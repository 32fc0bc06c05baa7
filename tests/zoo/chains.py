"""Random chains of layers, drawn by hypothesis: what encoders are made of, in any order."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Draw = Callable[[st.SearchStrategy[Any]], Any]
Layers = list[Callable[[], nn.Module]]
# Of an event: (features,), (tokens, features) or (channels, height, width).
Form = tuple[int, ...]
# What a kind of layer draws for a form: layers, and the form that they return.
Kind = Callable[[Draw, Form], tuple[Layers, Form]]

LARGEST = 160  # entries of an event


class Apply(nn.Module):
    """An expression in x as a layer."""

    def __init__(self, expression: str) -> None:
        super().__init__()
        self.expression = expression
        names = {"torch": torch, "sdpa": scaled_dot_product_attention}
        self.function = eval(f"lambda x: {expression}", names)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return repr(self.expression)


class Residual(nn.Module):
    """x + layers(x)."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer() for layer in layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Attention(nn.MultiheadAttention):
    """Of tokens to themselves."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


class Chain(NamedTuple):
    """Layers, and the form of the events that they take."""

    form: Form
    layers: Layers

    def module(self) -> nn.Module:
        """The layers in eval mode, with weights and statistics that are no special case."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(*(layer() for layer in self.layers), nn.Flatten())
            for layer in net.modules():
                if "Norm" in type(layer).__name__:
                    for tensor in layer.state_dict().values():
                        if tensor.is_floating_point():
                            tensor.copy_(0.5 + torch.rand(tensor.shape))
        return net.eval()

    def __repr__(self) -> str:
        return f"Chain({self.form}, {self.module()})"


@st.composite
def chains(draw: Draw, longest: int = 6) -> Chain:
    """Some layers after each other, for features, tokens or images."""
    form = start = draw(
        st.one_of(
            st.tuples(st.sampled_from([4, 12])),
            st.tuples(st.sampled_from([3, 4, 6]), st.sampled_from([4, 8])),
            st.tuples(st.sampled_from([2, 3, 4]), st.sampled_from([4, 6]), st.just(4)),
        )
    )
    layers: Layers = []
    for _ in range(draw(st.integers(1, longest))):
        kind = draw(st.sampled_from([_activation, _residual, *_KINDS[len(form)]]))
        more, after = kind(draw, form)
        if torch.Size(after).numel() <= LARGEST:
            layers, form = [*layers, *more], after
    return Chain(start, layers or [nn.Identity])


def _activation(draw: Draw, form: Form) -> tuple[Layers, Form]:
    return [draw(st.sampled_from(_ACTIVATIONS))], form


def _residual(draw: Draw, form: Form) -> tuple[Layers, Form]:
    more: Layers = []
    for kind in draw(st.lists(st.sampled_from(_KEEPING[len(form)]), min_size=1, max_size=3)):
        more += kind(draw, form)[0]
    return [partial(Residual, more)], form


def _linear(draw: Draw, form: Form) -> tuple[Layers, Form]:
    width = draw(st.sampled_from([4, 6, 8]))
    return [partial(nn.Linear, form[-1], width, bias=draw(st.booleans()))], (*form[:-1], width)


def _linear_back(draw: Draw, form: Form) -> tuple[Layers, Form]:
    layers, (*_, width) = _linear(draw, form)
    return [*layers, *_activation(draw, form)[0], partial(nn.Linear, width, form[-1])], form


def _norm_of_features(draw: Draw, form: Form) -> tuple[Layers, Form]:
    norms = [partial(nn.LayerNorm, form[-1]), partial(nn.RMSNorm, form[-1])]
    if len(form) == 1:
        norms += [partial(nn.BatchNorm1d, form[0]), partial(nn.GroupNorm, 2 - form[0] % 2, form[0])]
    return [draw(st.sampled_from(norms))], form


def _norm_of_channels(draw: Draw, form: Form) -> tuple[Layers, Form]:
    """Of images, or of tokens turned into sequences with channels."""
    channels = form[-1] if len(form) == 2 else form[0]
    groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
    affine = draw(st.booleans())
    norms: Sequence[Callable[..., nn.Module]] = [
        partial(nn.BatchNorm1d if len(form) == 2 else nn.BatchNorm2d, channels, affine=affine),
        partial(nn.GroupNorm, groups, channels, affine=affine),
        partial(
            nn.InstanceNorm1d if len(form) == 2 else nn.InstanceNorm2d, channels, affine=affine
        ),
    ]
    norm = draw(st.sampled_from(norms))
    turned = partial(Apply, "x.mT")
    return ([turned, norm, turned] if len(form) == 2 else [norm]), form


def _channels_last_norm(draw: Draw, form: Form) -> tuple[Layers, Form]:
    there, back = partial(Apply, "x.permute(0, 2, 3, 1)"), partial(Apply, "x.permute(0, 3, 1, 2)")
    norm = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
    return [there, partial(norm, form[0]), back], form


def _conv(draw: Draw, form: Form) -> tuple[Layers, Form]:
    channels, *size = form
    kernel, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 1, 2]))
    dilation = draw(st.sampled_from([1, 2])) if kernel == 3 else 1
    depthwise = draw(st.booleans())
    width = 2 * channels if depthwise and draw(st.booleans()) else channels
    if not depthwise:
        width = draw(st.sampled_from([2, 4, 6]))
    layer = partial(
        nn.Conv2d,
        channels,
        width,
        kernel,
        stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=channels if depthwise else 1,
        bias=draw(st.booleans()),
    )
    return [layer], (width, *(-(-n // stride) for n in size))


def _conv_same(draw: Draw, form: Form) -> tuple[Layers, Form]:
    groups = draw(st.sampled_from([1, form[0]]))
    mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
    conv = partial(nn.Conv2d, form[0], form[0], 3, padding=1, groups=groups, padding_mode=mode)
    return [conv], form


def _transposed_conv(draw: Draw, form: Form) -> tuple[Layers, Form]:
    channels, *size = form
    width, kernel, stride = draw(st.sampled_from([(2, 2, 2), (channels, 3, 1), (2, 4, 2)]))
    groups = channels if width == channels and draw(st.booleans()) else 1
    conv = partial(nn.ConvTranspose2d, channels, width, kernel, stride, groups=groups)
    return [conv], (width, *((n - 1) * stride + kernel for n in size))


def _sequence_conv(draw: Draw, form: Form) -> tuple[Layers, Form]:
    conv = partial(nn.Conv1d, form[-1], form[-1], 3, padding=1)
    return [partial(Apply, "x.mT"), conv, partial(Apply, "x.mT")], form


def _attention(draw: Draw, form: Form) -> tuple[Layers, Form]:
    width = form[-1]
    heads = 2 if width % 2 == 0 and draw(st.booleans()) else 1
    split = f"x.unflatten(2, ({heads}, -1)).transpose(1, 2)"
    causal = draw(st.booleans())
    layer: partial = draw(
        st.sampled_from(
            [
                partial(Attention, width, heads, batch_first=True),
                partial(
                    nn.TransformerEncoderLayer,
                    width,
                    heads,
                    2 * width,
                    activation=draw(st.sampled_from(["relu", "gelu"])),
                    norm_first=draw(st.booleans()),
                    batch_first=True,
                ),
                partial(
                    Apply,
                    f"sdpa({split}, 2 * {split}, {split}, is_causal={causal})"
                    ".transpose(1, 2).flatten(2)",
                ),
            ]
        )
    )
    return [layer], form


def _pool(draw: Draw, form: Form) -> tuple[Layers, Form]:
    channels, *size = form
    if min(size) < 2:
        return [], form
    halved = (channels, *(n // 2 for n in size))
    choices: list[tuple[partial, Form]] = [
        (partial(nn.MaxPool2d, 2), halved),
        (partial(nn.AvgPool2d, 2), halved),
        (partial(nn.AvgPool2d, 3, 1, 1, count_include_pad=False), form),
        (partial(nn.MaxPool2d, 3, 1, 1), form),
        (partial(nn.AdaptiveAvgPool2d, 1), (channels, 1, 1)),
        (partial(nn.AdaptiveAvgPool2d, 2), (channels, 2, 2)),
        (partial(nn.AdaptiveMaxPool2d, 2), (channels, 2, 2)),
    ]
    layer, after = draw(st.sampled_from(choices))
    return [layer], after


def _resample(draw: Draw, form: Form) -> tuple[Layers, Form]:
    channels, *size = form
    mode = draw(st.sampled_from(["nearest", "bilinear", "bicubic"]))
    choices: list[tuple[partial, Form]] = [
        (partial(nn.Upsample, scale_factor=2, mode=mode), (channels, *(2 * n for n in size)))
    ]
    if channels % 4 == 0:
        shuffled = (channels // 4, *(2 * n for n in size))
        choices.append((partial(nn.PixelShuffle, 2), shuffled))
    if all(n % 2 == 0 for n in size):
        unshuffled = (4 * channels, *(n // 2 for n in size))
        choices.append((partial(nn.PixelUnshuffle, 2), unshuffled))
    layer, after = draw(st.sampled_from(choices))
    return [layer], after


def _from_image(draw: Draw, form: Form) -> tuple[Layers, Form]:
    c, h, w = form
    choices: list[tuple[str, Form]] = [
        ("x.flatten(2)", (c, h * w)),
        ("x.flatten(2).mT", (h * w, c)),
        ("x.permute(0, 2, 3, 1).flatten(1, 2)", (h * w, c)),
        ("x.permute(0, 2, 3, 1).flatten(1)", (c * h * w,)),
        ("x.flatten(1)", (c * h * w,)),
        ("x.mean((2, 3))", (c,)),
        ("x.amax((2, 3))", (c,)),
        ("x.transpose(2, 3)", (c, w, h)),
        ("x.roll(1, 3)", form),
        ("torch.cat([x, x.flip(3)], 1)", (2 * c, h, w)),
    ]
    expression, after = draw(st.sampled_from(choices))
    return [partial(Apply, expression)], after


def _from_tokens(draw: Draw, form: Form) -> tuple[Layers, Form]:
    t, d = form
    choices: list[tuple[str, Form]] = [
        ("x.mT", (d, t)),
        ("x.flatten(1)", (t * d,)),
        ("x.mean(1)", (d,)),
        ("x[:, 0]", (d,)),
        ("x[..., ::2]", (t, -(-d // 2))),
        ("x.mT.unflatten(2, (1, -1))", (d, 1, t)),
        ("torch.cat([x[:, :1], x], 1)", (t + 1, d)),
    ]
    if t % 2 == 0:
        choices.append(("x.mT.reshape(len(x), -1, 2, x.shape[1] // 2)", (d, 2, t // 2)))
    expression, after = draw(st.sampled_from(choices))
    return [partial(Apply, expression)], after


def _from_features(draw: Draw, form: Form) -> tuple[Layers, Form]:
    (d,) = form
    choices: list[tuple[str, Form]] = [
        ("x.softmax(1)", form),
        ("x[:, None] * x[..., None]", (d, d)),
    ]
    if d % 4 == 0:
        choices += [
            ("x.unflatten(1, (-1, 2, 2))", (d // 4, 2, 2)),
            ("x.unflatten(1, (4, -1))", (4, d // 4)),
            ("x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()", (d // 2,)),
        ]
    expression, after = draw(st.sampled_from(choices))
    return [partial(Apply, expression)], after


_IN_PLACE = (
    nn.ReLU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ReLU6,
    nn.ELU,
    nn.LeakyReLU,
    nn.Hardsigmoid,
)
_ACTIVATIONS: list[Callable[[], nn.Module]] = [
    *_IN_PLACE,
    *(partial(layer, inplace=True) for layer in _IN_PLACE),
    *(nn.GELU, partial(nn.GELU, "tanh"), nn.Softplus, nn.Tanh, nn.Sigmoid, nn.SELU, nn.Softsign),
    *(nn.PReLU, nn.Hardtanh, nn.LogSigmoid),
]

# Kinds of layers by the number of dimensions of what they take.
_KINDS: dict[int, list[Kind]] = {
    1: [_linear, _norm_of_features, _from_features],
    2: [_linear, _norm_of_features, _norm_of_channels, _attention, _sequence_conv, _from_tokens],
    3: [
        _conv,
        _conv_same,
        _transposed_conv,
        _norm_of_channels,
        _channels_last_norm,
        _pool,
        _resample,
        _from_image,
    ],
}
# Those that keep the form.
_KEEPING: dict[int, list[Kind]] = {
    1: [_activation, _norm_of_features, _linear_back],
    2: [_activation, _norm_of_features, _norm_of_channels, _attention, _linear_back],
    3: [_activation, _norm_of_channels, _channels_last_norm, _conv_same],
}

"""What an input and a map must satisfy to have a pullback metric; each failure is one sentence."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..arguments import FLOATING, plain, require_finite
from ..products.precision import full_precision

Outputs = tuple[Tensor, Tensor | None]

# Layers whose output, in training mode, depends on the other samples or on chance.
_UNSAFE_IN_TRAINING = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
)

_TWICE = "the map cannot be differentiated twice by autograd, as Jacobian-vector products need"


def check_input(x: Tensor) -> None:
    """Refuse what is not a finite, non-empty, floating-point batch ``(B, *event)``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch tensor, got {type(x).__name__}")
    if x.dtype not in FLOATING:
        raise TypeError(
            f"x must be float32 or float64, got {plain(x.dtype)}; for images in bytes use x / 255"
        )
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"x must hold at least one sample and one value each, (B, *event); "
            f"got shape {tuple(x.shape)}"
        )
    require_finite(x, "x holds NaN or infinite values")


def check_mode(modules: Iterable[nn.Module]) -> None:
    """Refuse layers in training mode that mix samples or draw random numbers."""
    for module in modules:
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
            raise ValueError("the map has lazy parameters without values; run it on a batch first")
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
                raise ValueError(
                    f"layer {name!r} ({type(layer).__name__}) has no running statistics, so "
                    "samples influence each other even in eval mode"
                )
            if layer.training and isinstance(layer, _UNSAFE_IN_TRAINING) and not _harmless(layer):
                where = f"{name!r} ({type(layer).__name__})" if name else type(layer).__name__
                raise ValueError(
                    f"layer {where} is in training mode, so samples would influence each "
                    "other or outputs be random; call .eval() on the module first"
                )


def placement_problem(tensors: dict[str, Tensor], x: Tensor) -> str | None:
    """Why a map failed, if that is because a parameter has another dtype or device than x."""
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            return (
                f"x is {plain(x.dtype)} but the map's {name!r} is {plain(tensor.dtype)}; "
                f"convert one of them, e.g. module.to({x.dtype})"
            )
        if tensor.device != x.device:
            return f"x is on {x.device} but the map's {name!r} is on {tensor.device}; move one"
    return None


def probe(call: Callable[[Tensor], Outputs], samples: Tensor) -> Outputs:
    """Mean and std of a map for a first sample, once it has behaved in three calls.

    Samples have to be independent, results repeatable and finite, shapes to match, std > 0, and
    the mean has to depend on x through autograd, twice differentiably.

    Args:
        call: the map.
        samples: ``(1, *event)`` or ``(2, *event)``.
    """
    # Fused attention kernels cannot be differentiated twice; the plain one can.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        full_precision(samples.device),
    ):
        pair = _two_different(samples.clone()).requires_grad_()
        first = call(pair)
        _check_outputs(first, pair)
        _check_derivatives(torch.cat([t.flatten(1) for t in first if t is not None], 1), pair)
        _check_agreement(
            first,
            call(pair),
            100 * torch.finfo(pair.dtype).eps,
            "returned two different results for the same input; call .eval() and take out "
            "what is random (dropout, sampling)",
        )
        mean, std = first
        alone = mean[:1], None if std is None else std[:1]
        _check_agreement(
            alone,
            call(pair[:1]),
            # An accelerator may choose a kernel of less precision for one of the two sizes.
            torch.finfo(pair.dtype).eps ** 0.5 * (1 if pair.device.type == "cpu" else 10),
            "gives a sample another result in a batch than alone; call .eval() and take out "
            "what mixes samples (batch statistics)",
        )
    return alone


def _harmless(layer: nn.Module) -> bool:
    """Instance statistics are those of a sample; only running averages mix them."""
    return isinstance(layer, nn.modules.instancenorm._InstanceNorm) and (
        not layer.track_running_stats
    )


def _two_different(samples: Tensor) -> Tensor:
    """The samples, or the first and one with its values in other places, or scaled."""
    first = samples[:1]
    for second in (samples[1:], first.flatten().roll(1).view_as(first), 0.9 * first):
        if len(second) and not torch.equal(first, second):
            return torch.cat([first, second])
    return torch.cat([first, first + 0.1])


def _check_derivatives(outputs: Tensor, x: Tensor) -> None:
    """See that Jᵀu and J v can be had, and that they agree: uᵀ(J v) = (Jᵀu)ᵀv."""
    u = torch.linspace(0.5, 1.5, outputs.numel()).view_as(outputs).to(outputs).requires_grad_()
    v = torch.linspace(-1.0, 1.5, x.numel()).view_as(x).to(x)
    transposed = pushed = None
    try:
        if outputs.requires_grad:
            (transposed,) = torch.autograd.grad(outputs, x, u, create_graph=True, allow_unused=True)
        if transposed is not None and transposed.requires_grad:
            (pushed,) = torch.autograd.grad(transposed, u, v, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(f"{_TWICE}: {str(error).splitlines()[0]}") from error
    if transposed is None:
        raise ValueError(
            "the map does not depend on x through autograd; remove torch.no_grad, "
            ".detach() or .item() from it"
        )
    pushed = torch.zeros_like(outputs) if pushed is None else pushed
    one, other = u * pushed, v * transposed
    scale = one.abs().sum() + other.abs().sum()
    # Products that are all but 0, as those of a saturated softmax, are rounding error.
    largest = x.detach().abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    floor = outputs.detach().abs().max() * u.detach().norm() * v.norm() / largest
    if (one.sum() - other.sum()).abs() > torch.finfo(x.dtype).eps ** 0.5 * (scale + floor):
        raise ValueError(f"{_TWICE}: its Jacobian-vector and vector-Jacobian products disagree")


def _check_outputs(outputs: Outputs, x: Tensor) -> None:
    mean, std = outputs
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        if value.ndim < 2 or len(value) != len(x) or value.numel() == 0:
            raise ValueError(
                f"the map's {name} has shape {tuple(value.shape)} for a batch of {len(x)}; "
                "it must be (B, *event)"
            )
        if value.dtype != x.dtype:
            raise TypeError(
                f"the map's {name} is {plain(value.dtype)} for {plain(x.dtype)} inputs; "
                "it must keep the dtype"
            )
        if not value.isfinite().all():
            raise ValueError(f"the map's {name} holds NaN or infinite values for a finite input")
    if std is not None and std.shape != mean.shape:
        raise ValueError(
            f"the map's mean has shape {tuple(mean.shape)} and its std {tuple(std.shape)}; "
            "they must match"
        )
    if std is not None and not (std > 0).all():
        raise ValueError(
            f"the map's std must be positive, got {std.min().item():.4g}; "
            "is it declared with the right `returns`?"
        )


def _check_agreement(first: Outputs, second: Outputs, tolerance: float, problem: str) -> None:
    # Rounding may differ between calls, more so for another batch size.
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            continue
        scale = a.detach().abs().max().clamp(min=torch.finfo(a.dtype).tiny)
        if (a - b).abs().max() > tolerance * scale:
            raise ValueError(f"the map {problem}")

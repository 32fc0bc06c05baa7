"""What an input and a map must satisfy to have a pullback metric; each failure is one sentence."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Outputs = tuple[Tensor, Tensor | None]

# Layers whose output, in training mode, depends on the other samples or on chance.
_UNSAFE_IN_TRAINING = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
)


def require_finite(values: Tensor, problem: str, first: int = 0) -> None:
    """Raise a ValueError that names the samples of ``(B, *rest)`` which are not all finite.

    Samples are counted from ``first``.
    """
    bad = (~values.detach().flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(str(first + i) for i in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise ValueError(f"{problem} in sample {shown}")


def check_input(x: Tensor) -> None:
    """Refuse what is not a finite, non-empty, floating-point batch ``(B, *event)``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point, got {_plain(x.dtype)}; for images in bytes use x / 255"
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
        for name, layer in module.named_modules():
            if layer.training and isinstance(layer, _UNSAFE_IN_TRAINING):
                where = f"{name!r} ({type(layer).__name__})" if name else type(layer).__name__
                raise ValueError(
                    f"layer {where} is in training mode, so samples would influence each "
                    "other or outputs be random; call .eval() on the module first"
                )


def check_placement(tensors: dict[str, Tensor], x: Tensor) -> None:
    """Refuse parameters whose dtype or device is not that of x."""
    for name, tensor in tensors.items():
        if tensor.dtype != x.dtype:
            raise TypeError(
                f"x is {_plain(x.dtype)} but the map's {name!r} is {_plain(tensor.dtype)}; "
                f"convert one of them, e.g. x.to({tensor.dtype})"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"x is on {x.device} but the map's {name!r} is on {tensor.device}; move one of them"
            )


def probe(call: Callable[[Tensor], Outputs], sample: Tensor) -> Outputs:
    """Mean and std of a map for ``sample`` ``(1, *event)``, once it has behaved in three calls.

    Samples have to be independent, results repeatable and finite, shapes to match, std > 0, and
    the mean has to depend on x through autograd.
    """
    # The second sample differs from the first and, for pixels, stays within [0, 1].
    pair = torch.cat([sample, 1 - sample])
    with torch.inference_mode(False), torch.enable_grad():
        pair = pair.clone().requires_grad_()
        first = call(pair)
        _check_outputs(first, pair)
        if not first[0].requires_grad:
            raise ValueError(
                "the map's mean does not depend on x through autograd; remove torch.no_grad, "
                ".detach() or .item() from it"
            )
        _check_agreement(
            first,
            call(pair),
            "returned two different results for the same input; call .eval() and take out "
            "what is random (dropout, sampling)",
        )
        mean, std = first
        alone = mean[:1], None if std is None else std[:1]
        _check_agreement(
            alone,
            call(pair[:1]),
            "gives a sample another result in a batch than alone; call .eval() and take out "
            "what mixes samples (batch statistics)",
        )
    return alone


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
                f"the map's {name} is {_plain(value.dtype)} for {_plain(x.dtype)} inputs; "
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


def _check_agreement(first: Outputs, second: Outputs, problem: str) -> None:
    # Rounding may differ between calls; chance and batch statistics do far more than this.
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            continue
        scale = a.detach().abs().max().clamp(min=torch.finfo(a.dtype).tiny)
        if (a - b).abs().max() > 10 * torch.finfo(a.dtype).eps ** 0.5 * scale:
            raise ValueError(f"the map {problem}")

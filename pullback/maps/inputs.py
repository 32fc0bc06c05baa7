"""What may be given to a map, and in which mode it must be; each failure is one sentence."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ..arguments import FLOATING, plain, require_finite, require_tensor

# Layers whose output, in training mode, depends on the other samples or on chance.
_UNSAFE_IN_TRAINING = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
)


def check_input(x: Tensor) -> None:
    """Refuse what is not a finite, non-empty, floating-point batch ``(B, *event)``."""
    require_tensor("x", x)
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


def check_given(given: Sequence[Tensor], x: Tensor, batch_dims: int = 1) -> None:
    """Refuse further arguments that do not have the batch dimensions of x, or its device."""
    if isinstance(given, Tensor) or not isinstance(given, Sequence):
        hint = "; write given=(tensor,)" if isinstance(given, Tensor) else ""
        raise TypeError(f"given must be a tuple of tensors, got {_kind(given)}{hint}")
    batch = x.shape[:batch_dims]
    for index, tensor in enumerate(given):
        require_tensor(f"given[{index}]", tensor)
        if tensor.shape[:batch_dims] != batch:
            raise ValueError(
                f"given[{index}] has shape {tuple(tensor.shape)}, but must start with "
                f"{tuple(batch)}, one entry for each sample of x"
            )
        if tensor.device != x.device:
            raise ValueError(f"given[{index}] is on {tensor.device} but x on {x.device}; move one")


def arrange_given(given: Sequence[Tensor], x: Tensor, batch_dims: int) -> list[Tensor]:
    """Further arguments as ``(B, …)``, as many samples as x ``(*batch, *event)`` has."""
    check_given(given, x, batch_dims)
    count = x.shape[:batch_dims].numel()
    return [tensor.reshape(count, *tensor.shape[batch_dims:]) for tensor in given]


def check_mode(modules: Iterable[nn.Module]) -> None:
    """Refuse layers in training mode that mix samples or draw random numbers."""
    for module in modules:
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
            raise ValueError("the map has lazy parameters without values; run it on a batch first")
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
                raise ValueError(
                    f"layer {name!r} ({_kind(layer)}) has no running statistics, so "
                    "samples influence each other even in eval mode"
                )
            if _is_unsafe(layer):
                where = f"{name!r} ({_kind(layer)})" if name else _kind(layer)
                raise ValueError(
                    f"layer {where} is in training mode, so samples would influence each "
                    "other or outputs be random; call .eval() on the module first"
                )


class MisplacedTensorError(TypeError):
    """A tensor of a map has another dtype or device than its input, and the map failed."""


def find_misplaced(tensors: Iterable[tuple[str, Tensor]], x: Tensor) -> str | None:
    """Why a map failed, if that is because a tensor of it has another dtype or device than x.

    Integers come last: as indices they may be elsewhere.
    """
    for name, tensor in sorted(tensors, key=lambda pair: not pair[1].is_floating_point()):
        what = f"the map's {name!r}" if name else "a tensor of the map"
        if tensor.is_floating_point() and tensor.dtype != x.dtype:
            return (
                f"x is {plain(x.dtype)} but {what} is {plain(tensor.dtype)}; "
                f"convert one of them, e.g. module.to({x.dtype})"
            )
        if tensor.device != x.device:
            return f"x is on {x.device} but {what} is on {tensor.device}; move one"
    return None


def _is_unsafe(layer: nn.Module) -> bool:
    """Whether it mixes samples or draws random numbers in the mode that it is in."""
    if not isinstance(layer, _UNSAFE_IN_TRAINING) or not layer.training:
        return False
    # Instance statistics are those of a sample; only running averages mix them.
    is_instance = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    return not is_instance or bool(layer.track_running_stats)


def _kind(thing: Any) -> str:
    return type(thing).__name__

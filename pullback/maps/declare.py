"""What an encoder or decoder is: x ↦ (mean, std), declared by the user and checked once."""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import require_choice
from .outputs import RETURNS, read_output
from .validation import check_input, check_mode, placement_problem, probe

# How far to look for modules from a callable, and into containers on the way.
_DEPTH, _WIDTH = 5, 100


def as_map(fn: Callable[..., Any], returns: str | None = None) -> "Map":
    """Declare what a callable returns, so that it can be differentiated as x ↦ (mean, std).

    Args:
        fn: an ``nn.Module``, a method of one, or a function. It takes a batch ``(B, *event)`` and
            treats the samples independently. The parameters of a module (or of the module that a
            method belongs to) take part in autograd; tensors that a plain function closes over
            are constants.
        returns: ``"mean"`` (a tensor; σ = 0), ``"mean_std"``, ``"mean_var"``, ``"mean_logvar"``
            (a pair of tensors; the logarithm is of the variance, σ = exp(½ log σ²)) or
            ``"distribution"`` (anything with ``.mean`` and ``.stddev`` or ``.std``). Without it,
            ``fn`` may return a tensor (read as the mean) or a distribution, never a tuple.

    Raises:
        TypeError: ``fn`` is not callable.
        ValueError: ``returns`` is none of the five.
    """
    if isinstance(fn, Map) and returns in (None, fn.returns):
        return fn
    if isinstance(fn, Map):
        raise ValueError(f"returns={returns!r} contradicts the map's own returns={fn.returns!r}")
    if not callable(fn):
        raise TypeError(f"a map must be a module or a function, got {type(fn).__name__}")
    if returns is not None:
        require_choice("returns", returns, RETURNS)
    return Map(_unwrapped(fn), returns)


class Signature(NamedTuple):
    """What a map returns for one sample: the mean's event shape, and whether it has a std."""

    mean_shape: torch.Size
    stochastic: bool

    @property
    def num_outputs(self) -> int:
        """Length of the stacked output [μ; σ] (or of μ, for a deterministic map)."""
        return self.mean_shape.numel() * (2 if self.stochastic else 1)


class Map:
    """A callable whose output is read as (mean, std). Made by :func:`as_map`.

    It has no method ``to``, ``detach`` or the like: linear_operator would call it.
    """

    def __init__(self, fn: Callable[..., Any], returns: str | None) -> None:
        self.fn = fn
        self.returns = returns
        self.module = _module_behind(fn)
        self._checked: dict[tuple, Signature] = {}

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", type(self.fn).__name__)
        return f"as_map({name}, returns={self.returns!r})"

    def __call__(
        self, x: Tensor, tensors: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation, ``(B, *event)`` each; std is None for a deterministic map.

        ``tensors`` (see :meth:`tensors`) stand in for the module's own parameters and buffers.
        """
        return read_output(self._call(x, tensors), self.returns)

    def _call(self, x: Tensor, tensors: dict[str, Tensor] | None) -> Any:
        if not tensors or self.module is None:
            return self.fn(x)
        others = {name: b.to(x.device) for name, b in self.module.named_buffers()}
        return torch.func.functional_call(self.module, others | tensors, (x,))

    @property
    def owner(self) -> nn.Module | None:
        """The user's own module: the callable itself, or the one that it is a method of."""
        return self.module.owner if isinstance(self.module, _Method) else self.module

    def tensors(self) -> dict[str, Tensor]:
        """The module's floating-point parameters and buffers, by name."""
        if self.module is None:
            return {}
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return {name: ordinary(t) for name, t in named if t.is_floating_point()}

    def modules(self) -> list[nn.Module]:
        """Every module that a call runs, found through methods, closures and partials as well."""
        return [found for found in _reachable(self.fn, set()) if isinstance(found, nn.Module)]

    def constants(self) -> list[Tensor]:
        """Tensors that a call uses beside :meth:`tensors`: what a plain function closes over."""
        if self.module is not None:
            return []
        found = list(_reachable(self.fn, set()))
        inside = [t for m in found if isinstance(m, nn.Module) for t in _tensors_of(m)]
        return [*inside, *(t for t in found if isinstance(t, Tensor))]

    def check(self, x: Tensor) -> Signature:
        """Refuse an input or a map that has no pullback metric; otherwise say what it returns.

        The input's dtype, finiteness and the module's mode are looked at in every call. The
        behaviour (independent samples, determinism, finite outputs, matching shapes, std > 0) is
        probed once per event shape, dtype and device, with three small forward passes.

        Args:
            x: ``(B, *event)``, floating point, finite, not empty.

        Raises:
            TypeError, ValueError: one sentence with what was received and what is accepted.
        """
        check_input(x)
        check_mode(self.modules())
        key = (x.shape[1:], x.dtype, x.device)
        if key not in self._checked:
            mean, std = probe(self._try, x[:2].detach())
            self._checked[key] = Signature(mean.shape[1:], std is not None)
        return self._checked[key]

    def _try(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        try:
            output = self._call(x, self.tensors())
        except Exception as error:
            problem = placement_problem(self.tensors(), x)
            if problem is not None:
                raise TypeError(problem) from error
            raise ValueError(
                f"the map cannot be applied to a batch of shape {tuple(x.shape)}: {error}"
            ) from error
        return read_output(output, self.returns)


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd accepts if it was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def _unwrapped(fn: Any) -> Callable[..., Any]:
    """The module inside wrappers that cannot be differentiated twice."""
    while True:
        if isinstance(fn, nn.DataParallel | nn.parallel.DistributedDataParallel):
            fn = fn.module
        elif isinstance(fn, nn.Module) and hasattr(fn, "_orig_mod"):  # torch.compile
            fn = fn._orig_mod
        else:
            return fn


def _module_behind(fn: Callable[..., Any]) -> nn.Module | None:
    if isinstance(fn, torch.jit.ScriptModule):
        return None  # its parameters cannot be replaced
    if isinstance(fn, nn.Module):
        return fn
    owner = getattr(fn, "__self__", None)
    return _Method(owner, fn.__name__) if isinstance(owner, nn.Module) else None


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class _Method(nn.Module):
    """A method of a module as a module of its own, so that its parameters can be replaced."""

    def __init__(self, owner: nn.Module, method: str) -> None:
        super().__init__()
        # `training` belongs to the owner; registering it as a child leaves its mode alone.
        self.owner = owner
        self.method = method

    def forward(self, x: Tensor) -> Any:
        return getattr(self.owner, self.method)(x)


def _reachable(thing: Any, seen: set[int], depth: int = 0) -> Iterator[nn.Module | Tensor]:
    """Modules and tensors that a call would use: the callable itself, its owner, its closure."""
    if id(thing) in seen or depth > _DEPTH:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module | Tensor):
        yield thing
        return
    for part in _parts(thing):
        yield from _reachable(part, seen, depth + 1)


def _parts(thing: Any) -> list[Any]:
    """What a function, a method, a partial, a container or a callable object refers to."""
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__, thing.__func__]
    if inspect.isfunction(thing):
        if (thing.__module__ or "").partition(".")[0] == "torch":
            return []
        variables = inspect.getclosurevars(thing)
        used = [*variables.nonlocals.values(), *variables.globals.values()]
        return [*used, getattr(thing, "__wrapped__", None), *(thing.__defaults__ or ())]
    if isinstance(thing, list | tuple):
        return list(thing[:_WIDTH])
    if isinstance(thing, dict):
        return list(itertools.islice(thing.values(), _WIDTH))
    is_object = callable(thing) and not isinstance(thing, type) and hasattr(thing, "__dict__")
    return list(vars(thing).values()) if is_object else []

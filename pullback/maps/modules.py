"""The modules and tensors behind a callable: found, and replaced for a call."""

import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# How far to look for modules from a callable, and into containers on the way.
_DEPTH, _WIDTH = 5, 100

# Held while a user's module runs or is watched, as its tensors may be replaced in another thread.
TENSORS_IN_PLACE = threading.RLock()

Found = tuple[str, nn.Module | Tensor]


def unwrap(fn: Any) -> Any:
    """The callable inside wrappers that cannot be differentiated twice."""
    if isinstance(fn, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(fn.module)
    if isinstance(fn, nn.Module) and hasattr(fn, "_orig_mod"):  # torch.compile
        return unwrap(fn._orig_mod)
    if isinstance(fn, functools.partial):
        return functools.partial(unwrap(fn.func), *fn.args, **fn.keywords)
    return fn


def find_module(fn: Callable[..., Any]) -> nn.Module | None:
    """The module that a callable is, is a method of, or is a partial of."""
    if isinstance(fn, functools.partial):
        return find_module(fn.func)
    owner = fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None)
    # The parameters of compiled TorchScript cannot be replaced.
    return owner if isinstance(owner, nn.Module) and not is_script(owner) else None


def is_script(module: nn.Module) -> bool:
    """Whether the module is TorchScript."""
    return isinstance(module, torch.jit.ScriptModule)


class ModuleCall(nn.Module):
    """A call of a function that uses a module, with other tensors in place of the module's own.

    Args:
        module: the module; being a part of this one leaves it as it is, its mode included.
        fn: the function: the module itself, a method of it, or anything that calls it.
    """

    def __init__(self, module: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = module
        # In a list, so that it is no further part if it is a module: every tensor has one name.
        self._fn = [fn]
        # Names of the tensors that the function changes: copies stand in for them.
        self.changing: set[str] = set()

    def forward(self, *args: Any) -> Any:
        """Call the function."""
        return self._fn[0](*args)

    def call_with(self, tensors: dict[str, Tensor], args: Sequence[Any]) -> Any:
        """What the function returns while these tensors, by name, stand in for the module's own.

        It is the one place where tensors of a user's module are replaced, and put back. No other
        thread calls a module meanwhile; where all tensors are its own, none is replaced.
        """
        with TENSORS_IN_PLACE:
            own = dict(named_tensors(self.owner))
            as_is = all(own.get(name) is tensor for name, tensor in tensors.items())
            if as_is and not self.changing:
                return self(*args)
            buffers = {name: b.to(args[0].device) for name, b in self.owner.named_buffers()}
            replaced = buffers | tensors
            for name in self.changing & own.keys():
                replaced[name] = replaced.get(name, own[name]).clone()
            named = {f"owner.{name}": tensor for name, tensor in replaced.items()}
            return torch.func.functional_call(self, named, tuple(args))


def leave_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd accepts if it was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module, by name."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Attributes of a module and of its parts that are tensors, but no parameters or buffers."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}".lstrip("."), value


def find_reachable(thing: Any) -> Iterator[Found]:
    """Modules and tensors that a call would use: the callable itself, its owner, its closure.

    Each comes with the name that it has there; the callable itself has none.
    """
    return _find_reachable("", thing, set(), 0)


def _find_reachable(name: str, thing: Any, seen: set[int], depth: int) -> Iterator[Found]:
    if id(thing) in seen or depth > _DEPTH:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module | Tensor):
        yield name, thing
        return
    for part_name, part in _find_parts(thing):
        yield from _find_reachable(part_name or name, part, seen, depth + 1)


def _find_parts(thing: Any) -> list[tuple[str, Any]]:
    """What a function, a method, a partial, a container or a callable object refers to."""
    if isinstance(thing, functools.partial):
        return [("", thing.func), *(("", part) for part in thing.args), *thing.keywords.items()]
    if inspect.ismethod(thing):
        return [("", thing.__self__), ("", thing.__func__)]
    if inspect.isfunction(thing):
        if (thing.__module__ or "").partition(".")[0] == "torch":
            return []
        variables = inspect.getclosurevars(thing)
        wrapped = getattr(thing, "__wrapped__", None)
        defaults = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        return [
            *variables.nonlocals.items(),
            *variables.globals.items(),
            *(("", part) for part in (wrapped, *defaults)),
        ]
    if isinstance(thing, list | tuple):
        return [("", part) for part in thing[:_WIDTH]]
    if isinstance(thing, dict):
        return [(str(key), part) for key, part in itertools.islice(thing.items(), _WIDTH)]
    is_object = callable(thing) and not isinstance(thing, type) and hasattr(thing, "__dict__")
    return list(vars(thing).items()) if is_object else []

"""What an encoder or decoder is: x ↦ (mean, std), declared by the user and checked once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .changes import Snapshot
from .inputs import (
    MisplacedTensorError,
    check_given,
    check_input,
    check_mode,
    find_misplaced,
)
from .modules import (
    TENSORS_IN_PLACE,
    ModuleCall,
    find_module,
    find_reachable,
    is_script,
    leave_inference_mode,
    named_tensors,
    plain_tensors,
    unwrap,
)
from .outputs import Pick, Signature, read_output, require_declaration, stack
from .validation import PLACES, Outputs, validate, validate_size


def as_map(
    fn: Callable[..., Any],
    returns: str | None = None,
    *,
    pick: Pick | None = None,
    module: nn.Module | None = None,
) -> "Map":
    """Declare what a callable returns, so that it can be differentiated as x ↦ (mean, std).

    Args:
        fn: an ``nn.Module``, a method of one, a ``functools.partial`` of these, or a function. It
            takes a batch ``(B, *event)``, and further tensors where they are ``given``, and
            treats the samples independently.
        returns: ``"mean"`` (a tensor; σ = 0), ``"mean_std"``, ``"mean_var"``, ``"mean_logvar"``
            (a pair of tensors; the logarithm is of the variance, σ = exp(½ log σ²)) or
            ``"distribution"`` (anything with ``.mean`` and ``.stddev`` or ``.std``; of
            distributions with correlated noise, ``MultivariateNormal`` and
            ``LowRankMultivariateNormal``, whose noise z = μ + Lε counts whole). Without it,
            ``fn`` may return a tensor (read as the mean) or a distribution, never a tuple.
        pick: what to take from the output before it is read: the key of a dictionary, the
            attribute of an object or the index of a sequence, or two of them, which make a pair.
        module: the module that ``fn`` calls, where it cannot be told from ``fn`` itself. Its
            parameters take part in autograd, as those of a module or of a method's owner do, and
            its weights can be loaded; other tensors that a function closes over are constants.

    Raises:
        TypeError: ``fn`` is not callable, ``module`` is no module, or ``pick`` no name.
        ValueError: ``returns`` is none of the five, does not go with ``pick``, or a map is declared
            again as something else.
    """
    if isinstance(fn, Map):
        return _require_same(fn, returns, pick, module)
    if not callable(fn):
        raise TypeError(f"a map must be a module or a function, got {type(fn).__name__}")
    pick = require_declaration(returns, pick)
    if module is not None and (not isinstance(module, nn.Module) or is_script(module)):
        raise TypeError(
            f"module must be an nn.Module, and not TorchScript, got {type(module).__name__}"
        )
    return Map(unwrap(fn), returns, pick, unwrap(module))


class Map:
    """A callable whose output is read as (mean, std). Made by :func:`as_map`.

    It has no method ``to``, ``detach`` or the like: linear_operator would call it.

    Attributes:
        fn, returns, pick: see :func:`as_map`.
        module: the user's own module: the callable itself, the one that it is a method or a partial
            of, or the one that was named; None for a plain function.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        returns: str | None,
        pick: Pick | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.fn = fn
        self.returns = returns
        self.pick = pick
        self.module = find_module(fn) if module is None else module
        self._named = module is not None
        self._call = None if self.module is None else ModuleCall(self.module, fn)
        # By shapes and dtypes; and the sizes of batches that were looked at.
        self._validated: dict[tuple, Signature] = {}
        self._sizes: dict[tuple, set[int]] = {}

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", type(self.fn).__name__)
        pick = "" if self.pick is None else f", pick={self.pick!r}"
        return f"as_map({name}, returns={self.returns!r}{pick})"

    def __call__(
        self, x: Tensor, *given: Tensor, tensors: dict[str, Tensor] | None = None
    ) -> Outputs:
        """Mean and standard deviation, ``(B, *event)`` each, of ``fn(x, *given)``.

        The std is None for a deterministic map, and the factor L ``(B, *event, R)`` for correlated
        noise z = μ + Lε. ``tensors`` (see :meth:`tensors`) stand in for the module's own parameters
        and buffers.
        """
        try:
            output = self._apply(x, given, tensors)
        except RuntimeError:
            if torch.is_grad_enabled():
                raise
            # A map that differentiates inside needs autograd where nobody else does.
            with torch.inference_mode(False), torch.enable_grad():
                output = self._apply(x.detach().clone().requires_grad_(), given, tensors)
                mean, std = read_output(output, self.returns, self.pick)
            return mean.detach(), None if std is None else std.detach()
        return read_output(output, self.returns, self.pick)

    def _apply(self, x: Tensor, given: Sequence[Tensor], tensors: dict[str, Tensor] | None) -> Any:
        # The function may change these in place.
        x, given = x.clone(), [tensor.clone() for tensor in given]
        try:
            if self._call is None:
                return self.fn(x, *given)
            return self._call.call_with(tensors or {}, (x, *given))
        except RuntimeError as error:
            misplaced = find_misplaced(self._find_all_tensors(), x)
            if misplaced is not None and any(word in str(error) for word in ("type", "device")):
                raise MisplacedTensorError(misplaced) from error
            raise

    def tensors(self) -> dict[str, Tensor]:
        """The module's floating-point parameters and buffers, by name."""
        if self.module is None:
            return {}
        named = named_tensors(self.module)
        return {name: leave_inference_mode(t) for name, t in named if t.is_floating_point()}

    def modules(self) -> list[nn.Module]:
        """Every module that a call runs, found through methods, closures and partials as well."""
        found = [part for _, part in find_reachable(self.fn) if isinstance(part, nn.Module)]
        hidden = self.module is not None and all(part is not self.module for part in found)
        return [self.module, *found] if hidden else found  # type: ignore[list-item]

    def constants(self) -> list[Tensor]:
        """Tensors that a call uses beside the module's own: what a function closes over."""
        own: set[int] = set()
        if self.module is not None:
            if self.module in (self.fn, getattr(self.fn, "__self__", None)):
                return []
            own = {id(tensor) for _, tensor in named_tensors(self.module)}
        return [t for _, t in self._find_tensors() if id(t) not in own]

    def discrete_tensors(self) -> list[Tensor]:
        """The module's parameters and buffers that :meth:`tensors` leaves out."""
        named = () if self.module is None else named_tensors(self.module)
        return [tensor for _, tensor in named if not tensor.is_floating_point()]

    def check(self, x: Tensor, given: Sequence[Tensor] = ()) -> Signature:
        """Refuse an input or a map that has no pullback metric; otherwise say what it returns.

        The input's dtype, finiteness and the module's mode are looked at in every call. The
        behaviour (independent samples, determinism, finite outputs, matching shapes, std > 0, two
        derivatives) is validated once per event shape, dtype and device, on three samples; and
        a few samples of the first batch of another size have to give the same results alone.

        Args:
            x: ``(B, *event)``, floating point, finite, not empty.
            given: further arguments of the map, ``(B, …)`` each.

        Raises:
            TypeError, ValueError: one sentence with what was received and what is accepted.
        """
        check_input(x)
        check_given(given, x)
        check_mode(self.modules())
        key = (x.shape[1:], x.dtype, x.device, *((t.shape[1:], t.dtype) for t in given))
        if key in self._validated and len(x) in self._sizes[key]:
            return self._validated[key]
        x, given = leave_inference_mode(x).detach(), list(map(leave_inference_mode, given))
        if key not in self._validated:
            mean, std = self._validate(x, given)
            if self._named:
                self._check_part_of_module(x[:1], [tensor[:1] for tensor in given])
            self._validated[key] = Signature(mean.shape[1:], None if std is None else std.shape[1:])
            self._sizes[key] = {1, PLACES}
        if len(x) not in self._sizes[key]:
            validate_size(self, x.contiguous(), given)
            self._sizes[key].add(len(x))
        return self._validated[key]

    def _validate(self, x: Tensor, given: Sequence[Tensor]) -> Outputs:
        """Mean and std of one sample of a map that behaves; its tensors stay as they were."""
        found: Outputs | Exception
        with TENSORS_IN_PLACE:
            snapshot = Snapshot(self.modules(), self._find_tensors())
            try:
                found = validate(self._attempt, x, given)
            except (TypeError, ValueError) as error:
                found = error
            changed = snapshot.restore()
        own = {} if self.module is None else dict(named_tensors(self.module))
        for name in sorted(changed - own.keys()):
            raise ValueError(
                f"the map changes its {name!r} when it is called; call .eval(), or name the module "
                "that it belongs to, pb.as_map(fn, module=…), so that a copy can stand in for it"
            )
        if self._call is not None and changed - self._call.changing:
            self._call.changing |= changed
            return self._validate(x, given)
        if isinstance(found, Exception):
            raise found
        return found

    def _attempt(
        self, x: Tensor, given: Sequence[Tensor], tensors: dict[str, Tensor] | None = None
    ) -> Outputs:
        """Mean and std, or a sentence that says why they cannot be had."""
        try:
            output = self._apply(x, given, tensors or self.tensors())
        except MisplacedTensorError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in given)
            further = f" with given tensors of shape {shapes}" if given else ""
            raise ValueError(
                f"the map cannot be applied to a batch of shape {tuple(x.shape)}{further}: {error}"
            ) from error
        return read_output(output, self.returns, self.pick)

    def _find_tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor that a call uses, with a name."""
        found = [("", self.module), *find_reachable(self.fn)]
        tensors: dict[int, tuple[str, Tensor]] = {}
        for name, part in found:
            inside = named_tensors(part) if isinstance(part, nn.Module) else [("", part)]
            for inner, tensor in inside:
                if isinstance(tensor, Tensor):
                    tensors.setdefault(id(tensor), (".".join(filter(None, (name, inner))), tensor))
        return list(tensors.values())

    def _find_all_tensors(self) -> list[tuple[str, Tensor]]:
        """Plain attributes of modules as well, which a module does not take along when it moves."""
        return [*self._find_tensors(), *(pair for m in self.modules() for pair in plain_tensors(m))]

    def _check_part_of_module(self, x: Tensor, given: Sequence[Tensor]) -> None:
        """Refuse a module that was named although the function does not use it."""
        with torch.inference_mode(False), torch.enable_grad():
            tensors = {name: t.detach().requires_grad_() for name, t in self.tensors().items()}
            outputs = stack(*self._attempt(x, given, tensors))
            used: Sequence[Tensor | None] = (None,)
            if outputs.requires_grad and tensors:
                used = torch.autograd.grad(outputs.sum(), [*tensors.values()], allow_unused=True)
        if tensors and all(gradient is None for gradient in used):
            raise ValueError(
                f"module={type(self.module).__name__} has no part in what the function returns; "
                "name the module that it calls"
            )


def _require_same(
    declared: Map, returns: str | None, pick: Pick | None, module: nn.Module | None
) -> Map:
    """The map, if it is not declared as something else than it is."""
    pick = tuple(pick) if isinstance(pick, list) else pick
    for name, value in (("returns", returns), ("pick", pick)):
        own = getattr(declared, name)
        if value is not None and value != own:
            raise ValueError(f"{name}={value!r} contradicts the map's own {name}={own!r}")
    if module is not None and unwrap(module) is not declared.module:
        kinds = [type(m).__name__ for m in (module, declared.module)]
        raise ValueError(f"module={kinds[0]} contradicts the map's own module, {kinds[1]}")
    return declared

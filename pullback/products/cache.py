"""Values remembered as long as the tensors that they were made from stay as they are."""

import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .checksums import checksums, list_strided

Value = TypeVar("Value")


class _Call:
    """A call of the library, in which the user's tensors stay as they are.

    Attributes:
        checksums: of tensors, by where their numbers are. The tensors are held beside them, so that
            their memory is not given to others.
        found: whatever else need not be looked for twice.
        mark: what stands for it where values outlive it, which must not hold all of the above.
    """

    def __init__(self) -> None:
        self.mark = object()
        self.checksums: dict[Hashable, tuple[Tensor, Hashable]] = {}
        self.found: dict[Hashable, Any] = {}


# The one that is going on.
_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


@contextmanager
def steady_tensors() -> Iterator[None]:
    """One call of the library: tensors that were compared once are taken to stay as they are."""
    token = _CALL.set(_CALL.get() or _Call())
    try:
        yield
    finally:
        _CALL.reset(token)


@contextmanager
def fresh_call() -> Iterator[None]:
    """A call within a call: what it compares is compared anew, and forgotten when it ends."""
    token = _CALL.set(_Call())
    try:
        yield
    finally:
        _CALL.reset(token)


def find_once(key: Hashable, find: Callable[[], Value]) -> Value:
    """What ``find()`` returns, which is asked once in a call of the library."""
    call = _CALL.get()
    if call is None:
        return find()
    if key not in call.found:
        call.found[key] = find()
    return call.found[key]


@dataclass
class _Entry(Generic[Value]):
    """A value, the tensors it was made from, and what was known of them."""

    tensors: Sequence[Tensor]
    places: list[tuple[int, int]]
    checksums: list[Hashable]
    value: Value
    compared_in: object | None  # the mark of a call


class Recent(Generic[Value]):
    """The latest values, each with the tensors that it was made from.

    These are held, so that their memory is not given to other tensors. A view of the same numbers
    counts as the same tensor. One that was changed since then does not: changes in place count up
    PyTorch's version of a tensor, and those behind its back, through ``.data`` or NumPy, show in a
    checksum, taken once in every call of the library (:func:`steady_tensors`).

    Args:
        size: how many values are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: list[_Entry[Value]] = []

    def find(self, tensors: Sequence[Tensor]) -> Value | None:
        """The value made from these tensors, if it is remembered."""
        mark, first = _mark_of_call(), _places_of(tensors[:1])
        for entry in reversed(self._entries):
            # Asked before every product, for all parameters of a map.
            if mark and entry.compared_in is mark and _are_identical(tensors, entry):
                return entry.value
            if (
                first == entry.places[:1]
                and entry.places == _places_of(tensors)
                and _are_same(tensors, entry.tensors)
            ):
                return entry.value if self._is_unchanged(entry) else None
        return None

    def add(self, tensors: Sequence[Tensor], value: Value) -> Value:
        """Remember a value; it is returned."""
        sums = _checksums_in_call(tensors)
        entry = _Entry(tensors, _places_of(tensors), sums, value, _mark_of_call())
        self._entries = [*self._entries, entry][-self._size :]
        return value

    def _is_unchanged(self, entry: _Entry[Value]) -> bool:
        mark = _mark_of_call()
        if mark is None or entry.compared_in is not mark:
            if entry.checksums != _checksums_in_call(entry.tensors):
                self._entries = [other for other in self._entries if other is not entry]
                return False
            entry.compared_in = mark
        return True


class Linearization(Protocol):
    """The derivative J of a function at a point, for a batch of independent samples."""

    @property
    def y(self) -> Tensor:
        """f(x), ``(B, M)``."""

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""

    def restrict(self, index: slice | Tensor) -> "Linearization | None":
        """That of some of the samples, without primal work; None if it has to be made anew."""


class RecentLinearizations:
    """Remembers the latest linearisations, as long as what they were made from stays as it is.

    linear_operator makes an operator anew for each product, so what has to outlive a product
    travels beside the tensors as a keyword argument: this object. Two are remembered, and two
    parts, for the samples that a solver still works on. A copy or a pickle starts empty.
    """

    def __init__(self) -> None:
        self._whole: Recent[Linearization] = Recent(2)
        self._parts: Recent[Linearization] = Recent(2)

    def get(self, tensors: Sequence[Tensor], make: Callable[[], Linearization]) -> Linearization:
        """The remembered linearisation if it was made from these tensors, else ``make()``."""
        return self._find(tensors) or self._whole.add(tensors, make())

    def restrict(
        self, tensors: Sequence[Tensor], some: Sequence[Tensor], index: slice | Tensor
    ) -> None:
        """Remember as well the linearisation at ``some`` tensors: the samples at ``index``.

        Nothing happens if that for all samples is not remembered, or not captured.
        """
        found = self._find(tensors)
        part = None if found is None else found.restrict(index)
        if part is not None:
            self._parts.add(some, part)

    def _find(self, tensors: Sequence[Tensor]) -> Linearization | None:
        return self._parts.find(tensors) or self._whole.find(tensors)

    def __reduce__(self) -> tuple:
        return RecentLinearizations, ()

    def __deepcopy__(self, memo: dict) -> "RecentLinearizations":
        return RecentLinearizations()


def _mark_of_call() -> object | None:
    call = _CALL.get()
    return None if call is None else call.mark


def _checksums_in_call(tensors: Sequence[Tensor]) -> list[Hashable]:
    """The checksums of tensors, each taken once in a call of the library."""
    call = _CALL.get()
    if call is None:
        return checksums(tensors)
    places = list(zip(_places_of(tensors), map(_layout_of, tensors), strict=True))
    new = {p: t for p, t in zip(places, tensors, strict=True) if p not in call.checksums}
    sums = checksums([*new.values()])
    call.checksums |= {p: (t, s) for (p, t), s in zip(new.items(), sums, strict=True)}
    return [call.checksums[place][1] for place in places]


def _places_of(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where the numbers of each are, and how often they were changed."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    except RuntimeError:  # inference tensors do not count their changes; sparse ones are several
        return [(address(t), 0 if t.is_inference() else t._version) for t in tensors]


def address(tensor: Tensor) -> int:
    """Where a tensor's numbers are; of a sparse one, its values."""
    return list_strided(tensor)[-1].data_ptr()


def _are_identical(tensors: Sequence[Tensor], entry: _Entry) -> bool:
    held = entry.tensors
    return len(tensors) == len(held) and all(map(operator.is_, tensors, held))


def _are_same(tensors: Sequence[Tensor], held: Sequence[Tensor]) -> bool:
    """Whether they are the same tensors, or the same views of the same numbers."""
    return all(map(operator.is_, tensors, held)) or all(
        map(operator.eq, map(_layout_of, tensors), map(_layout_of, held))
    )


def _layout_of(tensor: Tensor) -> tuple:
    order = tensor.stride() if tensor.layout == torch.strided else tensor.layout
    return tensor.shape, order, tensor.dtype, tensor.device

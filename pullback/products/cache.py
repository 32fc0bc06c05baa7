"""Values remembered as long as the tensors that they were made from stay as they are."""

import operator
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Value = TypeVar("Value")

# Bytes from which a checksum is a sum of words, each times an odd factor: faster than a CRC.
_LARGE = 2**15
_FACTORS = np.random.default_rng(0).integers(2**64, size=2**12, dtype=np.uint64) | np.uint64(1)
_ROWS, _HALF = 8, np.uint64(32)


class _Call:
    """A call of the library, in which the user's tensors stay as they are.

    Attributes:
        checksums: of tensors, by where their numbers are. The tensors are held beside them, so that
            their memory is not given to others.
        found: whatever else need not be looked for twice.
    """

    def __init__(self) -> None:
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
    compared_in: _Call | None


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
        call, first = _CALL.get(), _places_of(tensors[:1])
        for entry in reversed(self._entries):
            # Asked before every product, for all parameters of a map.
            if call is not None and entry.compared_in is call and _are_identical(tensors, entry):
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
        sums = list(map(_checksum_in_call, tensors))
        entry = _Entry(tensors, _places_of(tensors), sums, value, _CALL.get())
        self._entries = [*self._entries, entry][-self._size :]
        return value

    def _is_unchanged(self, entry: _Entry[Value]) -> bool:
        call = _CALL.get()
        if call is None or entry.compared_in is not call:
            if entry.checksums != list(map(_checksum_in_call, entry.tensors)):
                self._entries = [other for other in self._entries if other is not entry]
                return False
            entry.compared_in = call
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


def _checksum_in_call(tensor: Tensor) -> Hashable:
    """The checksum of a tensor, taken once in a call of the library."""
    call = _CALL.get()
    if call is None:
        return checksum(tensor)
    place = _places_of([tensor])[0], _layout_of(tensor)
    if place not in call.checksums:
        call.checksums[place] = tensor, checksum(tensor)
    return call.checksums[place][1]


def checksum(tensor: Tensor) -> Hashable:
    """A number that differs, but for a chance of 2⁻³², if a bit of the tensor or its order does."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.device.type != "cpu":
        words = tensor.contiguous().view(-1).view(torch.uint8).to(torch.int64)
        # Wraps around, as the sum below does.
        factors = torch.arange(len(words), device=words.device) * 0x9E3779B97F4A7C1 + 1
        return int((words * factors).sum())
    if tensor.dtype == torch.bfloat16:  # NumPy has no such numbers
        tensor = tensor.view(torch.int16)
    array: NDArray[Any] = np.ascontiguousarray(tensor.numpy())
    if array.nbytes < _LARGE:
        return zlib.crc32(array.data)
    raw = array.reshape(-1).view(np.uint8)
    whole = raw.size // (8 * len(_FACTORS)) * 8 * len(_FACTORS)
    rows: NDArray[np.uint64] = raw[:whole].view(np.uint64).reshape(-1, len(_FACTORS))
    # As many rows at a time as fit in the processor's cache.
    parts = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    # Sign bits alone would cancel in pairs.
    sums = [((part ^ (part >> _HALF)) * _FACTORS).sum(axis=1) for part in parts]
    return zlib.crc32(raw[whole:].data, zlib.crc32(np.concatenate(sums).data))


def _places_of(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where the numbers of each are, and how often they were changed."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    except RuntimeError:  # inference tensors do not count their changes
        return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def _are_identical(tensors: Sequence[Tensor], entry: _Entry) -> bool:
    held = entry.tensors
    return len(tensors) == len(held) and all(map(operator.is_, tensors, held))


def _are_same(tensors: Sequence[Tensor], held: Sequence[Tensor]) -> bool:
    """Whether they are the same tensors, or the same views of the same numbers."""
    return all(map(operator.is_, tensors, held)) or all(
        map(operator.eq, map(_layout_of, tensors), map(_layout_of, held))
    )


def _layout_of(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device

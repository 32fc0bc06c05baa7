"""Values remembered as long as the tensors that they were made from stay as they are."""

import operator
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Linearization(Protocol):
    """The derivative J of a function at a point, for a batch of independent samples."""

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""

    def restricted(self, index: slice | Tensor) -> "Linearization | None":
        """That of some of the samples, without primal work; None if it has to be made anew."""


class Recent(Generic[Value]):
    """The latest values, each with the tensors that it was made from.

    These are held, so that their memory is not given to other tensors; a view of the same numbers
    counts as the same tensor, one changed in place since then does not.

    Args:
        size: how many values are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: list[tuple[list[tuple[int, int]], Sequence[Tensor], Value]] = []

    def find(self, tensors: Sequence[Tensor]) -> Value | None:
        """The value made from these tensors, if it is remembered."""
        first = _state_of(tensors[:1])
        for state, held, value in reversed(self._entries):
            # Asked before every product, for all parameters of a map: most differ at once.
            if first == state[:1] and state == _state_of(tensors) and _alike(tensors, held):
                return value
        return None

    def add(self, tensors: Sequence[Tensor], value: Value) -> Value:
        """Remember a value; it is returned."""
        self._entries = [*self._entries, (_state_of(tensors), tensors, value)][-self._size :]
        return value


def _state_of(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where the numbers of each are, and how often they were changed."""
    try:
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    except RuntimeError:  # inference tensors do not count their changes
        return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]


def _alike(tensors: Sequence[Tensor], held: Sequence[Tensor]) -> bool:
    """Whether they are the same tensors, or the same views of the same numbers."""
    return all(map(operator.is_, tensors, held)) or all(
        map(operator.eq, map(_layout_of, tensors), map(_layout_of, held))
    )


def _layout_of(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


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

        Nothing happens if that for all samples is not remembered, or not traced.
        """
        found = self._find(tensors)
        part = None if found is None else found.restricted(index)
        if part is not None:
            self._parts.add(some, part)

    def _find(self, tensors: Sequence[Tensor]) -> Linearization | None:
        return self._parts.find(tensors) or self._whole.find(tensors)

    def __reduce__(self) -> tuple:
        return RecentLinearizations, ()

    def __deepcopy__(self, memo: dict) -> "RecentLinearizations":
        return RecentLinearizations()

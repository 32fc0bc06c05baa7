"""Values remembered as long as the tensors that they were made from stay as they are."""

import operator
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


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

"""Values remembered as long as the tensors that they were made from stay as they are."""

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
        for states, held, value in reversed(self._entries):
            if all(map(_same, tensors, held, states)):
                return value
        return None

    def add(self, tensors: Sequence[Tensor], value: Value) -> Value:
        """Remember a value; it is returned."""
        states = [_state_of(tensor) for tensor in tensors]
        self._entries = [*self._entries, (states, tensors, value)][-self._size :]
        return value


def _same(tensor: Tensor, held: Tensor, state: tuple[int, int]) -> bool:
    """Whether a tensor is the one held, or the same view of its numbers, as they were then."""
    return _state_of(tensor) == state and (tensor is held or _layout_of(tensor) == _layout_of(held))


def _state_of(tensor: Tensor) -> tuple[int, int]:
    # Inference tensors do not count their changes.
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _layout_of(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device

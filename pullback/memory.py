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
        self._entries: list[tuple[list, Sequence[Tensor], Value]] = []

    def find(self, tensors: Sequence[Tensor]) -> Value | None:
        """The value made from these tensors, if it is remembered."""
        states = [_state_of(tensor) for tensor in tensors]
        for known, held, value in reversed(self._entries):
            if known == states and _same_layout(tensors, held):
                return value
        return None

    def add(self, tensors: Sequence[Tensor], value: Value) -> Value:
        """Remember a value; it is returned."""
        states = [_state_of(tensor) for tensor in tensors]
        self._entries = [*self._entries, (states, tensors, value)][-self._size :]
        return value


def _state_of(tensor: Tensor) -> tuple[int, int]:
    # Inference tensors do not count their changes.
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _same_layout(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(
        a is b or _layout_of(a) == _layout_of(b) for a, b in zip(tensors, others, strict=True)
    )


def _layout_of(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device

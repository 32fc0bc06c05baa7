"""Indices of operators that know their products: what a tensor of the same shape would give."""

from typing import Any, SupportsIndex

import numpy as np
import torch
from linear_operator import LinearOperator
from torch import Tensor

PlainIndex = tuple[int | slice | Tensor, ...]
EVERYTHING = slice(None)


def plain_index(index: Any, shape: torch.Size, device: torch.device) -> PlainIndex:
    """The index with one part for each dimension, counted from the front.

    Args:
        index: what stands in the brackets: integers, slices, an ellipsis, tensors, arrays or lists
            of integers, and masks of truth values, which stand for as many tensors as they have
            dimensions.
        shape: of what is indexed.
        device: where it is.

    Raises:
        IndexError: a part is none of these, lies outside of its dimension, or is one too many.
        ValueError: a slice runs backwards.
    """
    parts = list(map(_as_known, index if isinstance(index, tuple) else (index,)))
    taken = sum(_dimensions(part) for part in parts)
    if taken > len(shape) or sum(part is Ellipsis for part in parts) > 1:
        raise IndexError(f"{_shown(parts)} is no index for an operator of shape {tuple(shape)}")
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    plain: list[int | slice | Tensor] = []
    for part in parts:
        if part is Ellipsis:
            plain += [EVERYTHING] * (len(shape) - taken)
        else:
            plain += _from_front(part, shape, len(plain))
    return tuple(part.to(device) if isinstance(part, Tensor) else part for part in plain)


def keeps_matrix(index: PlainIndex) -> bool:
    """Whether rows and columns can be chosen one after the other.

    They cannot where tensors go through several dimensions side by side, nor where one of more
    than one dimension takes the place of rows or columns.
    """
    *batch, row, column = index
    matrix = [part for part in (row, column) if isinstance(part, Tensor)]
    beside = any(isinstance(part, Tensor) for part in batch)
    return len(matrix) + beside < 2 and all(part.ndim == 1 for part in matrix)


def coordinates(index: PlainIndex, shape: torch.Size, device: torch.device) -> list[Tensor]:
    """For each dimension, which of its places every entry of the result comes from."""
    places = torch.meshgrid(*(torch.arange(n, device=device) for n in shape), indexing="ij")
    return [place[index] for place in places]


def takes_nothing(index: PlainIndex, shape: torch.Size) -> bool:
    """Whether there is nothing at this index: a slice or a tensor of it is empty."""
    sizes = (
        len(range(*part.indices(n))) if isinstance(part, slice) else part.numel()
        for part, n in zip(index, shape, strict=True)
        if not isinstance(part, int)
    )
    return 0 in sizes


def shape_at(index: PlainIndex, shape: torch.Size) -> torch.Size:
    """The shape of a tensor's part at this index, without such a tensor.

    Raises:
        IndexError: its tensors do not broadcast with one another.
    """
    parts = [part.to("meta") if isinstance(part, Tensor) else part for part in index]
    try:
        return torch.empty(shape, device="meta")[tuple(parts)].shape
    except RuntimeError as error:
        raise IndexError(f"the tensors of {_shown(parts)} do not broadcast") from error


def entries(
    operator: LinearOperator,
    row_index: Tensor,
    col_index: Tensor,
    batch: tuple[Tensor, ...],
    width: int,
) -> Tensor:
    """Single entries of an operator, from one product for each row that is asked for.

    Args:
        operator: ``(*batch, M, N)``.
        row_index, col_index, batch: one tensor of integers for each dimension; they broadcast.
        width: how many rows are asked for at once.
    """
    row_index, col_index, *batch_index = torch.broadcast_tensors(row_index, col_index, *batch)
    count = operator.shape[-2]
    rows, position = row_index.remainder(count).unique(return_inverse=True)
    result = torch.zeros(row_index.shape, dtype=operator.dtype, device=operator.device)
    every_row = torch.arange(count, device=operator.device)
    for start in range(0, len(rows), width):
        block = rows[start : start + width]
        unit = (every_row[:, None] == block).to(operator.dtype)
        product = operator._t_matmul(unit.expand(*operator.batch_shape, *unit.shape))
        inside = (position >= start) & (position < start + width)
        local = (position - start).clamp(0, len(block) - 1)
        result = torch.where(inside, product[(*batch_index, col_index, local)], result)
    return result


def _as_known(part: Any) -> Any:
    """An integer, a slice, an ellipsis or a tensor of integers or truth values."""
    if part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, list | np.ndarray):
        part = torch.as_tensor(part, dtype=torch.long if len(part) == 0 else None, device="cpu")
    if isinstance(part, Tensor) and part.ndim and not part.is_floating_point():
        return part if part.dtype == torch.bool else part.long()
    whole = isinstance(part, SupportsIndex) and not isinstance(part, bool | np.bool_)
    if not whole or (isinstance(part, Tensor) and (part.dtype == torch.bool or part.ndim)):
        raise IndexError(
            f"an operator is indexed with integers, slices, an ellipsis, and tensors of integers "
            f"or truth values, got {part!r}"
        )
    return part.__index__()


def _dimensions(part: Any) -> int:
    if part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, Tensor) and part.dtype == torch.bool else 1


def _from_front(part: Any, shape: torch.Size, first: int) -> list[int | slice | Tensor]:
    """A part of an index that starts at dimension ``first``, without negative numbers."""
    size = shape[first]
    if isinstance(part, slice):
        start, stop, step = part.indices(size)
        if step < 1:
            raise ValueError(f"a slice must go forwards, got {part}")
        return [EVERYTHING if (start, stop, step) == (0, size, 1) else slice(start, stop, step)]
    if isinstance(part, int):
        _require_inside(part, part, size, first)
        return [part % size]
    if part.dtype == torch.bool:
        if part.shape != shape[first : first + part.ndim]:
            raise IndexError(
                f"a mask of shape {tuple(part.shape)} does not fit dimension {first} of an "
                f"operator of shape {tuple(shape)}"
            )
        return list(part.nonzero(as_tuple=True))
    if part.numel():
        _require_inside(int(part.min()), int(part.max()), size, first)
    return [part.remainder(size) if size else part]


def _require_inside(least: int, most: int, size: int, dimension: int) -> None:
    for value in (least, most):
        if not -size <= value < size:
            raise IndexError(
                f"index {value} is out of range for dimension {dimension} of size {size}"
            )


def _shown(parts: list[Any]) -> str:
    shown = (
        "..." if p is Ellipsis else f"tensor of {p.shape}" if isinstance(p, Tensor) else str(p)
        for p in parts
    )
    return f"[{', '.join(shown)}]"

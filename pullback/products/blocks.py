"""Columns of a product, some at a time, and batches as columns."""

from collections.abc import Callable, Iterator

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .devices import max_block


def by_blocks(
    product: Callable[[Tensor], Tensor], columns: Tensor, width: int, like: Tensor
) -> Tensor:
    """Apply a product of ``(C, B, n) → (C, B, m)`` to columns ``(B, n, C)``, some at a time."""
    if columns.shape[-1] == 0:
        return like.new_zeros(*like.shape, 0)
    products = [product(block) for block in columns.movedim(-1, 0).split(width)]
    joined = products[0] if len(products) == 1 else torch.cat(products)
    return joined.movedim(0, -1).contiguous()


def with_batch_as_columns(
    product: Callable[[Tensor], Tensor], rhs: Tensor, batch: torch.Size
) -> Tensor:
    """Apply a product that knows ``(B, n, C)`` only, B = batch.numel(), to any broadcasting rhs.

    Batch dimensions that the operator does not have are further columns: its primal work is
    not repeated for them.
    """
    if rhs.shape[:-2] == batch and len(batch) == 1:
        return product(rhs)
    target = torch.broadcast_shapes(batch, rhs.shape[:-2])
    own = (1,) * (len(target) - len(batch)) + tuple(batch)
    kept = [i for i, size in enumerate(target) if own[i] == size]
    folded = [i for i, size in enumerate(target) if own[i] != size]
    order = [*kept, len(target), *folded, len(target) + 1]
    moved = rhs.expand(*target, *rhs.shape[-2:]).permute(order)
    columns = moved.shape[len(kept) + 1 :]
    result = product(moved.reshape(batch.numel(), rhs.shape[-2], columns.numel()))
    result = result.reshape(*(target[i] for i in kept), result.shape[1], *columns)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return result.permute(inverse).contiguous()


def identity(operator: LinearOperator, size: int) -> Tensor:
    """The identity ``(size, size)`` in the dtype and on the device of an operator."""
    return torch.eye(size, dtype=operator.dtype, device=operator.device)


def identity_blocks(operator: LinearOperator, size: int) -> Iterator[Tensor]:
    """Columns of the identity, as many at a time as :func:`max_block` allows."""
    block = max_block(operator.device)
    width = max(1, block // (operator.batch_shape.numel() * operator.shape[-1]))
    index = torch.arange(size, device=operator.device)
    for block in index.split(width):
        unit = (index[:, None] == block).to(operator.dtype)
        yield unit.expand(*operator.batch_shape, *unit.shape)

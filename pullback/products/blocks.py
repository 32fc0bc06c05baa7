"""Columns of a product, some at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

# Columns are taken together as long as one product's vectors stay under this many numbers:
# enough to keep two cores busy, and less than one N×N matrix of an image worth the name.
MAX_BLOCK = 2**19


def by_blocks(
    product: Callable[[Tensor], Tensor], columns: Tensor, width: int, like: Tensor
) -> Tensor:
    """Apply a product of ``(C, B, n) → (C, B, m)`` to columns ``(B, n, C)``, some at a time."""
    if columns.shape[-1] == 0:
        return like.new_zeros(*like.shape, 0)
    products = [product(block) for block in columns.movedim(-1, 0).split(width)]
    joined = products[0] if len(products) == 1 else torch.cat(products)
    return joined.movedim(0, -1).contiguous()

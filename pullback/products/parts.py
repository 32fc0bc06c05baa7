"""Some samples of a batch whose products are replayed: the whole batch takes no longer."""

import torch
from torch import Tensor

from .cache import Linearization


class Part:
    """The derivative at some samples of a batch, by products of the whole of it.

    Where launching a product takes longer than the product, those of a part cost as much as those
    of the batch, and more if they are of a size that has not been recorded.

    Args:
        whole: the derivative at the batch.
        index: which of its samples, in order.
    """

    def __init__(self, whole: Linearization, index: slice | Tensor) -> None:
        everywhere = torch.arange(len(whole.y), device=whole.y.device)
        self._whole, self._samples = whole, everywhere[index]
        self.y = whole.y[self._samples]

    def restrict(self, index: slice | Tensor) -> "Part":
        """That of some of these samples."""
        return Part(self._whole, self._samples[index])

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: ``(B, M, C) → (B, N, C)``."""
        return self._whole.vjp(self._spread(u))[self._samples]

    def jvp(self, v: Tensor) -> Tensor:
        """Jv: ``(B, N, C) → (B, M, C)``."""
        return self._whole.jvp(self._spread(v))[self._samples]

    def _spread(self, columns: Tensor) -> Tensor:
        """Columns of these samples at their places in the batch, and zeros."""
        everywhere = columns.new_zeros(len(self._whole.y), *columns.shape[1:])
        return everywhere.index_copy_(0, self._samples, columns)

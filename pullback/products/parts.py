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
        samples: which of its samples, each once: a product has one place for each.
    """

    def __init__(self, whole: Linearization, samples: Tensor) -> None:
        self._whole, self._samples = whole, samples
        self.y = whole.y[samples]

    @classmethod
    def of(cls, whole: Linearization, index: slice | Tensor) -> "Part | None":
        """The part at an index; None if a sample comes twice."""
        return cls._of_distinct(whole, torch.arange(len(whole.y), device=whole.y.device)[index])

    @classmethod
    def _of_distinct(cls, whole: Linearization, samples: Tensor) -> "Part | None":
        repeated = len(samples) > 1 and len(samples.unique()) < len(samples)
        return None if repeated else cls(whole, samples)

    def restrict(self, index: slice | Tensor) -> "Part | None":
        """That of some of these samples; None if one comes twice."""
        return self._of_distinct(self._whole, self._samples[index])

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

"""Warm starts: the leading small-side subspace of earlier batches."""

import torch
from torch import Tensor

from ..arguments import require_integer
from .dense import eigh


class WarmStart:
    """Learns, batch by batch, the subspace that the leading left singular vectors of J share.

    The images of a trained encoder move its code in much the same directions: the leading
    eigenvectors of the mean of JJᵀ/tr(JJᵀ) over earlier inputs are a good sketch of JJᵀ at the
    next. One object belongs to one map. It changes what a result costs, never the result by more
    than the tolerance; for results that repeat to the last bit, show it the same batches in the
    same order.

    Args:
        size: p, vectors of the subspace.

    Raises:
        ValueError: ``size`` is not positive.
    """

    def __init__(self, size: int = 16) -> None:
        self.size = require_integer("size", size, 1)
        self._total: Tensor | None = None

    @property
    def sketch(self) -> Tensor | None:
        """``(m, p)`` float64, orthonormal, m the smaller side of J; None before the first batch."""
        if self._total is None:
            return None
        return eigh(self._total)[1].flip(-1)[:, : self.size]

    def learn(self, small_side: Tensor) -> None:
        """Add a batch: ``(B, m, r)``, left singular vectors, each as long as its singular value.

        Raises:
            ValueError: m differs from that of earlier batches, as for another map.
        """
        batch = small_side.double()
        if self._total is not None and len(self._total) != batch.shape[1]:
            raise ValueError(
                f"this warm start is for a Jacobian with {len(self._total)} singular values, "
                f"not {batch.shape[1]}"
            )
        traces = batch.square().sum((-2, -1), keepdim=True)
        scaled = batch / torch.where(traces > 0, traces, 1.0).sqrt()
        gram = torch.einsum("bmr,bnr->mn", scaled, scaled)
        # A map that is moved takes what is known of it along.
        self._total = gram if self._total is None else self._total.to(gram.device) + gram

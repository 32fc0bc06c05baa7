"""What a growing basis leaves of a trace, seen by Gaussian probes."""

import copy

import torch
from torch import Tensor

from .bases import WeightedBasis


class ProbedRemainder:
    """Images of probes z, from which the vectors of a basis U are taken out one by one.

    Args:
        images: Jz, ``(B, m, p)`` float64.
        weighted: M times them; the same tensor if there is no weight.
    """

    def __init__(self, images: Tensor, weighted: Tensor) -> None:
        self._images, self._weighted = images, weighted
        self._reset()

    def select(self, samples: Tensor) -> "ProbedRemainder":
        """Those of some samples (indices)."""
        chosen = copy.copy(self)
        chosen._images, chosen._left = self._images[samples], self._left[samples]
        chosen._weighted, chosen._weighted_left = chosen._images, chosen._left
        if self._weighted is not self._images:
            chosen._weighted = self._weighted[samples]
            chosen._weighted_left = self._weighted_left[samples]
        return chosen

    def take_out(self, u: Tensor, weighted: Tensor) -> None:
        """Take out another vector ``(B, m)`` of U, M times which is ``weighted``."""
        inside = torch.bmm(weighted.unsqueeze(-2), self._left)
        self._left.baddbmm_(u.unsqueeze(-1), inside, alpha=-1)
        if self._weighted_left is not self._left:
            self._weighted_left.baddbmm_(weighted.unsqueeze(-1), inside, alpha=-1)

    def start_anew(self, basis: WeightedBasis) -> None:
        """Begin with another basis."""
        self._reset()
        for u, weighted in zip(basis.vectors.unbind(1), basis.weighted.unbind(1), strict=True):
            self.take_out(u, weighted)

    def _reset(self) -> None:
        self._left = self._images.clone()
        alike = self._weighted is self._images
        self._weighted_left = self._left if alike else self._weighted.clone()

    def products(self) -> Tensor:
        """zᵀG'z' of all probes, ``(B, p, p)``, G' the metric without what is in U."""
        return torch.bmm(self._left.mT, self._weighted_left)

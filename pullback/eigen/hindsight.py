"""Steps that do not wait for a GPU: whether a vector vanished is seen when others wait anyway.

A step divides by two lengths. One that is rounding error shows that the Krylov space is invariant,
which a random vector must leave. To ask before every step would have the GPU wait for the host
each time.
"""

import copy

import torch

from .bases import Lengths, TrustedLengths
from .bidiagonalisation import Bidiagonalisation


class Hindsight:
    """Steps of a bidiagonalisation, whose lengths are trusted until they are looked at.

    Args:
        trusting: whether they are; otherwise each step looks at its own, and nothing is done here.
    """

    def __init__(self, trusting: bool) -> None:
        self._trusting = trusting
        self._mark: Bidiagonalisation | None = None

    def trust(self, process: Bidiagonalisation) -> None:
        """Have the steps from here on take lengths as they are."""
        if self._trusting and self._mark is None:
            self._mark = mark = copy.copy(process)
            mark._matrix = process._matrix.clone()
            mark.blocks, mark.left = copy.copy(process.blocks), copy.copy(process.left)
            process.lengths = TrustedLengths()

    def look_back(self, process: Bidiagonalisation) -> Bidiagonalisation:
        """The process, if no length was rounding error; otherwise with the steps taken anew.

        These look at every length, and so do all that follow: where one vanished others may.
        """
        mark, self._mark = self._mark, None
        if mark is None:
            return process
        taken = process.blocks.count - mark.blocks.count
        if _are_sound(process, taken):
            return process
        self._trusting = False
        largest = torch.cat([mark.H, mark.coupling], dim=-1).abs().amax((-2, -1))
        mark.lengths = Lengths(largest.unsqueeze(-1), mark.rounding)
        mark.n_products = process.n_products
        mark.remainder.start_anew(mark.left)
        for _ in range(taken):
            mark.expand()
        return mark


def _are_sound(process: Bidiagonalisation, taken: int) -> bool:
    """Whether the lengths of the latest steps are more than rounding errors."""
    H, C, _ = process.on_host()
    matrix, below = torch.cat([H, C], dim=-1), H.shape[-1] - H.shape[-2]
    # Those of U, and beside them those of V.
    pair = [matrix.diagonal(below + i, dim1=-2, dim2=-1)[:, -taken:] for i in (0, 1)]
    lengths, largest = torch.cat(pair, dim=-1), matrix.abs().amax((-2, -1))
    sound = (lengths > process.rounding * largest.unsqueeze(-1)).all(-1)  # NaN is not
    return bool((sound | ~process.active).all())

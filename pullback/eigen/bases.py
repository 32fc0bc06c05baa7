"""Bases that grow vector by vector, one a row, in memory that is claimed ahead of them."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ..operators import PullbackMetric
from .convergence import rounding
from .small_side import apply_weight

# Rows of N entries that lie together: products with several take less time than with one, but no
# tensor may have many.
CHUNK = 4
# What is left of the length of a row of a block under which its direction has lost digits.
CANCELLED = 0.1
TINY = torch.finfo(torch.float64).tiny


class RowChunks:
    """Blocks of ``width`` rows ``(B, ·, n)``, a few in a tensor. Iterating gives these tensors.

    Attributes:
        count: how many rows there are.
    """

    def __init__(self, width: int = 1) -> None:
        self.count, self._rows = 0, width * max(1, CHUNK // width)
        # Each with the number of its rows that are filled.
        self._chunks: list[tuple[Tensor, int]] = []

    def __iter__(self) -> Iterator[Tensor]:
        return (memory[:, :used] for memory, used in self._chunks)

    def append(self, block: Tensor) -> Tensor:
        """Add a block ``(B, b, n)``; it is returned, where it lies now."""
        batch, rows, n = block.shape
        if not self._chunks or self._chunks[-1][1] + rows > self._rows:
            memory = block.new_empty(batch, max(rows, self._rows), n)
            self._chunks = [*self._chunks, (memory, 0)]
        memory, used = self._chunks[-1]
        self._chunks = [*self._chunks[:-1], (memory, used + rows)]  # copies keep their own list
        self.count += rows
        return memory[:, used : used + rows].copy_(block)

    def select(self, samples: Tensor) -> "RowChunks":
        """The rows of some samples (indices)."""
        chosen = copy.copy(self)
        chosen._chunks = [(memory[samples], used) for memory, used in self._chunks]
        return chosen

    def combine(self, coefficients: Tensor) -> Tensor:
        """Combinations ``(B, k, n)`` of the rows, for coefficients ``(B, count, k)``."""
        sizes = [used for _, used in self._chunks]
        weights = coefficients.mT.to(self._chunks[0][0].dtype).split(sizes, dim=-1)
        total = torch.bmm(weights[0], next(iter(self)))
        for part, chunk in list(zip(weights, self, strict=True))[1:]:
            total.baddbmm_(part, chunk)
        return total

    def take_out_of(self, block: Tensor) -> None:
        """Make a block ``(B, b, n)`` orthogonal to the rows, which are orthonormal, in place."""
        for chunk in self:
            block.baddbmm_(torch.bmm(block, chunk.mT), chunk, alpha=-1)


class Lengths:
    """Lengths of vectors, of which those count as 0 that rounding makes of the longest so far.

    Args:
        longest: ``(B, 1)`` float64.
        rounding: the length of rounding error, relative to the longest.

    Attributes:
        are_checked: whether a length that is rounding error is given as 0.
    """

    are_checked = True

    def __init__(self, longest: Tensor, rounding: float) -> None:
        self._longest, self._rounding = longest, rounding

    def select(self, samples: Tensor) -> "Lengths":
        """Those of some samples (indices)."""
        return Lengths(self._longest[samples], self._rounding)

    def invert(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """A length ``(B, 1)`` and its inverse; both are 0 where it is rounding error.

        A length that is not finite is not one, and its inverse is 0.
        """
        norm = norm.double()
        self._longest = torch.maximum(self._longest, norm)
        valid = norm > self._rounding * self._longest
        return norm * valid, valid / norm.clamp(min=TINY)


class TrustedLengths(Lengths):
    """Lengths that are taken as they are, until somebody looks at them."""

    are_checked = False

    def __init__(self) -> None:
        pass

    def select(self, samples: Tensor) -> "TrustedLengths":  # noqa: ARG002
        """The same: nothing is known of any sample."""
        return self

    def invert(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """A length and its inverse, which is finite where it is 0."""
        return norm, norm.clamp(min=torch.finfo(norm.dtype).tiny).reciprocal()


def orthonormalise_rows(block: Tensor, others: RowChunks, lengths: Lengths) -> Tensor:
    """L ``(B, b, b)`` with block = L F; F ``(B, b, n)`` takes the block's place, by Gram–Schmidt.

    Rows of F are 0 where a length is rounding error. The block is orthogonal to the ``others`` but
    for rounding, of which there may be as much as of the rest in rows next to dependent: F is made
    orthogonal to them again there.
    """
    if block.shape[1] == 1:
        length, inverse = lengths.invert(block.norm(dim=-1))
        block *= inverse.to(block.dtype).unsqueeze(-1)
        return length.unsqueeze(-1)
    sizes = block.norm(dim=-1).double()
    L = _gram_schmidt(block, lengths)
    rest = L.diagonal(dim1=-2, dim2=-1)
    left = torch.where(rest > 0, rest / sizes, 1.0)
    # Twice is enough, once more where only noise was.
    for _ in range(3):
        if not (left < CANCELLED).any():
            break
        for _ in range(2):
            others.take_out_of(block)
        again = _gram_schmidt(block, lengths, rest)
        L, left = L @ again, again.diagonal(dim1=-2, dim2=-1)
        rest, left = rest * left, torch.where(left > 0, left, 1.0)
    return L


def _gram_schmidt(block: Tensor, lengths: Lengths, sizes: Tensor | None = None) -> Tensor:
    """L and F, where a length times ``sizes`` ``(B, b)``, if given, tells rounding error."""
    L = block.new_zeros(*block.shape[:2], block.shape[1], dtype=torch.float64)
    for row in range(block.shape[1]):
        w = block[:, row]
        # Twice, as the first round may cancel most of it.
        for column in [*range(row), *range(row)]:
            v = block[:, column]
            inner = (w * v).sum(-1, keepdim=True)
            w -= inner * v
            L[:, row, column] += inner.squeeze(-1)
        norm = w.norm(dim=-1, keepdim=True).double()
        factor = 1.0 if sizes is None else sizes[:, row, None]
        length, inverse = lengths.invert(norm * factor)
        w *= (inverse * factor).to(block.dtype)
        L[:, row, row, None] = length if sizes is None else torch.where(length > 0, norm, 0.0)
    return L


class WeightedBasis:
    """A basis of the smaller side, orthonormal in the weight's inner product, in float64.

    Args:
        metric: ``(B, N, N)``, whose weight it is.
        length: m.

    Attributes:
        size: j, how many vectors there are.
    """

    def __init__(self, metric: PullbackMetric, length: int) -> None:
        self.weight, self.dtype, self.size = metric.weight, metric.dtype, 0
        like = torch.empty(0, dtype=torch.float64, device=metric.device)
        self._vectors = like.new_empty(metric.shape[0], 8, length)
        self._weighted = self._vectors if self.weight is None else torch.empty_like(self._vectors)
        # ‖M‖ and the largest pᵀMp, as far as they have shown.
        self.rounding = rounding((length, length), self.dtype)
        self.norm = self.largest = like.new_zeros(metric.shape[0])

    @property
    def vectors(self) -> Tensor:
        """U, ``(B, j, m)``."""
        return self._vectors[:, : self.size]

    @property
    def weighted(self) -> Tensor:
        """M times them."""
        return self._weighted[:, : self.size]

    def select(self, samples: Tensor) -> "WeightedBasis":
        """The bases of some samples (indices)."""
        chosen = copy.copy(self)
        chosen.norm, chosen.largest = self.norm[samples], self.largest[samples]
        chosen._vectors = chosen._weighted = self._vectors[samples]
        if self.weight is not None:
            chosen.weight, chosen._weighted = self.weight[samples], self._weighted[samples]
        return chosen

    def weigh(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """M p for p ``(B, m)``, and √(pᵀMp), 0 where it is rounding error."""
        if self.weight is None:
            return p, p.norm(dim=-1)
        weighted = apply_weight(self.weight, p.unsqueeze(-1), self.dtype).squeeze(-1)
        squares = (p * weighted).sum(-1)
        # Small eigenvalues of M are lost in the rounding of M p, and so is what is small in G.
        lengths = p.square().sum(-1)
        sizes = weighted.square().sum(-1) / torch.where(lengths > 0, lengths, 1.0)
        self.norm = torch.maximum(self.norm, sizes.sqrt())
        self.largest = torch.maximum(self.largest, squares)
        noise = self.rounding * torch.minimum(self.norm * lengths, self.largest)
        # Not a number stays what it is.
        return weighted, torch.where(squares <= noise, 0.0, squares).sqrt()

    def take_out_of(self, p: Tensor, rounds: int = 2) -> Tensor:
        """Make columns ``(B, m, C)`` orthogonal to the basis, in place; what of it was in them.

        That is coefficients ``(B, j, C)``. Two rounds are enough, and one where what is left is
        about as long as the columns.
        """
        total = None
        for _ in range(rounds):
            coefficients = torch.bmm(self.weighted, p)
            p.baddbmm_(self.vectors.mT, coefficients, alpha=-1)
            total = coefficients if total is None else total + coefficients
        assert total is not None
        return total

    def append(self, p: Tensor, weighted: Tensor, factor: Tensor) -> None:
        """Add p ``(B, m)``, and M times it, times a factor ``(B, 1)``."""
        if self.size == self._vectors.shape[1]:
            self._grow()
        torch.mul(p, factor, out=self._vectors[:, self.size])
        if self.weight is not None:
            torch.mul(weighted, factor, out=self._weighted[:, self.size])
        self.size += 1

    def _grow(self) -> None:
        self._vectors = torch.cat([self._vectors, torch.empty_like(self._vectors)], dim=1)
        if self.weight is None:
            self._weighted = self._vectors
        else:
            self._weighted = torch.cat([self._weighted, torch.empty_like(self._weighted)], dim=1)

    def rotate(self, X: Tensor) -> None:
        """Replace the basis by combinations of it, for orthonormal X ``(B, j, l)``."""
        self._vectors, weighted = X.mT @ self.vectors, self.weighted
        self._weighted = self._vectors if self.weight is None else X.mT @ weighted
        self.size = X.shape[-1]

"""Checksums of tensors, which show what was changed behind PyTorch's back."""

import itertools
import zlib
from collections.abc import Hashable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Bytes from which a checksum is a sum of words, each times an odd factor: faster than a CRC.
_LARGE = 2**15
_FACTORS = np.random.default_rng(0).integers(2**64, size=2**12, dtype=np.uint64) | np.uint64(1)
_ROWS, _HALF = 8, np.uint64(32)
# Whole numbers of so many bytes. Of longer ones, sign bits alone would cancel in pairs.
_WORDS = {1: torch.uint8, 2: torch.int16}


def checksums(tensors: Sequence[Tensor]) -> list[Hashable]:
    """Numbers that differ, but for a chance of 2⁻³², if a bit of a tensor or its order does.

    What lies on other devices is waited for once.
    """
    several = [list_strided(tensor) for tensor in tensors]
    parts = [part.resolve_conj().resolve_neg() for group in several for part in group]
    elsewhere = {i: t for i, t in enumerate(parts) if t.device.type not in ("cpu", "meta")}
    sums: dict[int, int] = {}
    for device in {tensor.device for tensor in elsewhere.values()}:
        there = {i: tensor for i, tensor in elsewhere.items() if tensor.device == device}
        sums |= zip(there, _sum_words([*there.values()]).tolist(), strict=True)
    found = [sums[i] if i in sums else _sum_on_host(t) for i, t in enumerate(parts)]
    rest = iter(found)
    return [tuple(next(rest) for _ in group) for group in several]


def list_strided(tensor: Tensor) -> list[Tensor]:
    """The tensors that a sparse one consists of, the values last."""
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def _sum_words(tensors: list[Tensor]) -> Tensor:
    """Sums ``(n,)`` int64, which wrap around, of the words of each tensor, each times a factor.

    The tensors are on one device, and are taken together: there are many small ones in a network.
    """
    factors = _factors_on(tensors[0].device)
    rows = [_fold(tensor, factors) for tensor in tensors]
    weighted = torch.cat(rows) * torch.cat([factors[: len(row)] for row in rows])
    ends = torch.tensor([0, *itertools.accumulate(map(len, rows))], device="cpu")
    ends = ends.to(factors.device, non_blocking=True)
    return torch.nn.functional.pad(weighted.cumsum(0), (1, 0))[ends].diff()


def _fold(tensor: Tensor, factors: Tensor) -> Tensor:
    """The words of a tensor, or, if they are many, sums of them, each times a factor."""
    words = _words_of(tensor)
    while len(words) > len(factors):
        rows = torch.nn.functional.pad(words, (0, -len(words) % len(factors)))
        words = (rows.view(-1, len(factors)) * factors).sum(-1)
    return words


def _words_of(tensor: Tensor) -> Tensor:
    """A tensor's bytes as whole numbers: NumPy has none of some kinds that PyTorch has."""
    return tensor.contiguous().view(-1).view(_WORDS.get(tensor.element_size(), torch.int32))


@cache
def _factors_on(device: torch.device) -> Tensor:
    return torch.from_numpy(_FACTORS.view(np.int64)).to(device)


def _sum_on_host(tensor: Tensor) -> Hashable:
    if tensor.is_meta:  # no numbers
        return 0
    raw: NDArray[np.uint8] = _words_of(tensor).numpy().view(np.uint8)
    if raw.size < _LARGE:
        return zlib.crc32(raw.data)
    whole = raw.size // (8 * len(_FACTORS)) * 8 * len(_FACTORS)
    rows: NDArray[np.uint64] = raw[:whole].view(np.uint64).reshape(-1, len(_FACTORS))
    # As many rows at a time as fit in the processor's cache.
    parts = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    # Sign bits alone would cancel in pairs.
    sums = [np.einsum("ij,j->i", part ^ (part >> _HALF), _FACTORS) for part in parts]
    return zlib.crc32(raw[whole:].data, zlib.crc32(np.concatenate(sums).data))

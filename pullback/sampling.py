"""Random vectors, one stream per sample, so that no result depends on how samples are batched."""

import functools
import math

import numpy as np
import scipy.special
import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
_STEP = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
# Steps to another part of the sequence: 2⁶² of them.
_FAR = _STEP * 2**62 % 2**64
# Quarters of a word, each of which chooses a normal number.
_QUARTERS, _CHOICES = 4, 2**16
# Numbers made together: on a CPU as many as its caches hold, elsewhere as few kernels make.
_AT_ONCE_ON_CPU, _AT_ONCE = 2**19, 2**26


class SeedCounter:
    """One 63-bit seed for each sample of a data set, by its place.

    Unlike a ``torch.Generator``, it starts at any place without drawing the seeds before.
    """

    def __init__(self, seed: int, first: int = 0) -> None:
        self._bits = np.random.PCG64(seed).advance(first)

    def draw(self, count: int) -> Tensor:
        """The next seeds, ``(count,)`` int64."""
        return torch.from_numpy((self._bits.random_raw(count) >> np.uint64(1)).astype(np.int64))


Generator = torch.Generator | SeedCounter


class SampleStreams:
    """Independent normal vectors for each of ``batch`` samples.

    One 63-bit seed per sample is drawn from ``generator``, in order: sample i of a data set gets
    the same stream whatever the size of the batch that it comes in. The seed is where a sample
    starts in the sequence of SplitMix64. Any number of that sequence is had by itself, in a dozen
    operations on integers, where the numbers are needed: they are the same to the last bit on every
    device, and rounded alike for every dtype. Sixteen bits choose one of as many normal numbers,
    up to 4.3 in modulus: the middles of 65 536 equally probable parts.
    """

    def __init__(self, batch: int, generator: Generator) -> None:
        # Where each sample is in the sequence; on the device of what was last drawn.
        self._places = draw_seeds(batch, generator)

    def select(self, samples: Tensor) -> "SampleStreams":
        """The streams of some samples (indices), where they stand."""
        chosen = object.__new__(SampleStreams)
        chosen._places = self._places[samples.to(self._places.device)]
        return chosen

    def apart(self) -> "SampleStreams":
        """Streams of the same samples, far from where these are or will come."""
        chosen = object.__new__(SampleStreams)
        chosen._places = self._places + _signed(_FAR)
        return chosen

    def normal(self, *shape: int, like: Tensor, where: Tensor | None = None) -> Tensor:
        """Standard normal ``(batch, *shape)``, with the dtype and device of ``like``.

        Samples outside ``where`` (``(batch,)`` bool) get zeros, and their streams stay put.
        """
        up = self._places.device.type == "cpu"  # the other way, numbers would be read too early
        places, count = self._places.to(like.device, non_blocking=up), math.prod(shape)
        words = -(-count // _QUARTERS)
        together = _AT_ONCE_ON_CPU if like.device.type == "cpu" else _AT_ONCE
        table = _normal_quantiles(like.device).to(like.dtype)
        drawn = table.new_empty(len(places), words * _QUARTERS)
        rows = max(1, together // max(1, count))
        for some, numbers in zip(places.split(rows), drawn.split(rows), strict=True):
            torch.index_select(table, 0, _choices(some, words), out=numbers.view(-1))
        drawn = drawn[:, :count].reshape(len(places), *shape)
        self._places = places + _signed(words * _STEP) * (1 if where is None else where)
        if where is None:
            return drawn
        return drawn.masked_fill_(~where.view(-1, *(1,) * len(shape)), 0.0)


def split_mix(places: Tensor, count: int) -> Tensor:
    """The next ``count`` words of SplitMix64 from each place: ``(B,) → (B, count)``, int64."""
    steps = torch.arange(1, count + 1, device=places.device) * _signed(_STEP)
    words = places.unsqueeze(-1) + steps
    shifted = torch.empty_like(words)
    for bits, factor in _ROUNDS:
        # Of signed integers, >> copies the sign: the bits that come in are cleared.
        torch.bitwise_right_shift(words, bits, out=shifted)
        words ^= shifted.bitwise_and_(2 ** (64 - bits) - 1)
        if factor != 1:
            words *= _signed(factor)
    return words


def _choices(places: Tensor, words: int) -> Tensor:
    """Independent integers from 0 to 65 535, four from each word, in one row."""
    quarters = split_mix(places, words).view(torch.int16).view(-1)
    return quarters.to(torch.int32).add_(_CHOICES // 2)


@functools.cache
def _normal_quantiles(device: torch.device) -> Tensor:
    """The middles of equally probable parts of the normal distribution, of variance 1 together."""
    middles = scipy.special.ndtri((np.arange(_CHOICES) + 0.5) / _CHOICES)
    scaled = middles / np.sqrt(np.mean(middles**2))
    with torch.inference_mode(False):
        return torch.from_numpy(scaled.astype(np.float32)).to(device)


def _signed(word: int) -> int:
    """The signed integer of the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63


def draw_seeds(count: int, generator: Generator) -> Tensor:
    """``count`` seeds; drawing twice continues where the first draw ended."""
    if isinstance(generator, SeedCounter):
        return generator.draw(count)
    return torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).cpu()


def as_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or a new one with seed 0."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    return generator

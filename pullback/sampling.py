"""Random vectors, one stream per sample, so that no result depends on how samples are batched."""

import numpy as np
import torch
from torch import Tensor


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
    the same stream whatever the size of the batch that it comes in. Numbers are
    drawn on the CPU, in float32, so they are the same on every device and for every dtype.
    """

    def __init__(self, batch: int, generator: Generator) -> None:
        seeds = draw_seeds(batch, generator).tolist()
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def select(self, samples: Tensor) -> "SampleStreams":
        """The streams of some samples (indices), where they stand."""
        chosen = object.__new__(SampleStreams)
        chosen._generators = [self._generators[index] for index in samples.tolist()]
        return chosen

    def normal(self, *shape: int, like: Tensor, where: Tensor | None = None) -> Tensor:
        """Standard normal ``(batch, *shape)``, with the dtype and device of ``like``.

        Samples outside ``where`` (``(batch,)`` bool) get zeros, and their streams stay put.
        """
        wanted = [True] * len(self._generators) if where is None else where.tolist()
        drawn = torch.empty(len(wanted), *shape, dtype=torch.float32)
        for row, generator, draw in zip(drawn, self._generators, wanted, strict=True):
            if draw:
                row.normal_(generator=generator)
            else:
                row.zero_()
        return drawn.to(like)


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

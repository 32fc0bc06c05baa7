"""Random problems: batches of operators with known spectra."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from linear_operator import LinearOperator, to_linear_operator
from numpy.random import Generator
from torch import Tensor

import pullback as pb

# Operators in a batch: they share all but the values of their spectra.
BATCH = 20
TOL = 1e-4


@dataclass(frozen=True)
class Problems:
    """A batch of problems.

    Attributes:
        operator: ``(B, N, N)``.
        dense: the same in float64, divided by ``size``.
        size: of the operators, a power of two.
        k, block: what is asked; a block is for Golub–Kahan.
    """

    operator: LinearOperator
    dense: Tensor
    size: float
    k: int
    block: int = 1


def fuzzed(rng: Generator) -> Problems:
    """Shapes, sizes, spectra, dtypes, weights and k at random."""
    rows, columns = rng.integers(1, 70, size=2)
    small = int(min(rows, columns))
    spectrum = SPECTRA[rng.integers(len(SPECTRA))]
    values = np.stack([spectrum(rng, small) for _ in range(BATCH)])
    dtype = torch.float32 if rng.random() < 0.5 else torch.float64
    most = 90 if dtype == torch.float32 else 600  # binary, of λ
    # Of σ: a power of two, so that dense matrices need not have their size.
    exponent = int(rng.integers(-most, most + 1)) // 2 if rng.random() < 0.3 else 0
    k = int(rng.integers(1, min(10, int(columns)) + 1))
    return _problems(rng, values, (int(rows), int(columns)), dtype, exponent, k)


def directed(rng: Generator) -> Problems:
    """Copies of two eigenvalues at a small distance, with the last one wanted among them."""
    n = int(rng.integers(30, 80))
    first, second = (int(copies) for copies in rng.integers(1, 6, size=2))
    distance = 10.0 ** rng.uniform(-6, -1)
    rest = (1 - distance) * (1 - 10.0 ** rng.uniform(-3, -0.3))
    dtype = torch.float32 if rng.random() < 0.3 else torch.float64
    k = int(rng.integers(max(1, first - 1), first + second + 1))
    top = np.repeat([1.0, 1 - distance], [first, second])
    values = np.stack(
        [
            np.concatenate([top, np.sort(rng.random(n - len(top)))[::-1] * rest])
            for _ in range(BATCH)
        ]
    )
    return _problems(rng, values, (n, n + int(rng.integers(0, 20))), dtype, 0, k)


def _problems(
    rng: Generator,
    values: np.ndarray,
    shape: tuple[int, int],
    dtype: torch.dtype,
    exponent: int,
    k: int,
) -> Problems:
    """From eigenvalues ``(B, r)``: as metrics, weighted ones, or operators that have no J."""
    rows, columns = shape
    left, right = _orthonormal(rng, rows), _orthonormal(rng, columns)
    sigma = torch.from_numpy(values).sqrt().unsqueeze(-2)
    J = (left[..., : values.shape[1]] * sigma @ right[..., : values.shape[1]].mT).to(dtype)
    scaled, wide = J * 2.0**exponent, J.double()
    kind = rng.random()
    block = int(rng.choice([1, 1, 2, 3, 8]))
    if kind < 0.2:
        G = wide.mT @ wide
        G = ((G + G.mT) / 2).to(dtype)
        operator = to_linear_operator(G * 4.0**exponent)
        return Problems(operator, G.double(), 4.0**exponent, k, block)
    if kind < 0.4:
        root = torch.from_numpy(rng.standard_normal((rows, rows))) / rows**0.5
        M = (root @ root.mT + 0.1 * torch.eye(rows, dtype=torch.float64)).to(dtype)
        M = (M + M.mT) / 2
        operator = pb.PullbackMetric(scaled, M)
        return Problems(operator, wide.mT @ M.double() @ wide, 4.0**exponent, k, block)
    return Problems(pb.PullbackMetric(scaled), wide.mT @ wide, 4.0**exponent, k, block)


def _orthonormal(rng: Generator, n: int) -> Tensor:
    return torch.linalg.qr(torch.from_numpy(rng.standard_normal((BATCH, n, n))))[0]


def _repeated(rng: Generator, n: int) -> np.ndarray:
    return np.sort(rng.integers(0, 5, n))[::-1].astype(float)


def _geometric(rng: Generator, n: int) -> np.ndarray:
    return rng.uniform(0.05, 1) ** np.arange(n)


def _algebraic(rng: Generator, n: int) -> np.ndarray:
    return np.arange(1, n + 1) ** -rng.uniform(0.2, 4)


def _clustered(rng: Generator, n: int) -> np.ndarray:
    centres = rng.random(rng.integers(1, 5))
    spread = 10.0 ** rng.uniform(-8, -2)
    return np.sort(rng.choice(centres, n) * (1 + spread * rng.random(n)))[::-1]


def _deficient(rng: Generator, n: int) -> np.ndarray:
    values = np.sort(rng.random(n))[::-1].copy()
    values[rng.integers(0, n + 1) :] = 0
    return values


SPECTRA: tuple[Callable[[Generator, int], np.ndarray], ...] = (
    _repeated,
    _geometric,
    _algebraic,
    _clustered,
    _deficient,
)

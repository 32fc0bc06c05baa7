"""Test vectors for stochastic trace estimation, and the standard error that they leave."""

from collections.abc import Iterator

import scipy.special
import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from ..eigen.dense import project_out
from ..products import max_block
from ..sampling import SampleStreams

# Probability that a normal variable stays below two standard deviations.
_BELOW_TWO = float(scipy.special.ndtr(2.0))
# Sizes of which sums of squares have a place in float64.
_LEAST, _MOST = 1e-150, 1e150


class Complement:
    """The space orthogonal to given orthonormal columns, in which test vectors are drawn.

    Args:
        operator: ``(*batch, N, N)``, for sizes, dtype and device.
        locked: ``(*batch, N, k)``, orthonormal columns, or zero columns, which lock nothing.

    Attributes:
        dimension: ``(*batch,)`` float64, N less the number of columns that are not zero.
    """

    def __init__(self, operator: LinearOperator, locked: Tensor | None = None) -> None:
        self.size, self.batch = operator.shape[-1], operator.batch_shape
        if locked is None:
            empty = (*self.batch, self.size, 0)
            locked = torch.zeros(empty, dtype=operator.dtype, device=operator.device)
        self.locked = locked
        # The squared norm of orthonormal columns is their number.
        self.dimension = self.size - locked.double().square().sum((-2, -1)).round()

    def project(self, columns: Tensor) -> Tensor:
        """The part of ``(*batch, N, C)`` in the complement."""
        return project_out(columns, self.locked)[0]

    def probes(self, streams: SampleStreams, count: int) -> Iterator[Tensor]:
        """Test vectors z with E zzᵀ the projector onto the complement, in groups of columns.

        They are uniform on the sphere of radius √dimension. Its quadratic forms have a smaller
        variance than those of Gaussian vectors and are exact for a multiple of the identity; unlike
        those of random signs, they scatter alike whatever the eigenvectors (forms of a few signs
        can agree by chance and hide their error). With count ≥ N they are the N unit vectors
        instead, times √N, whose forms have the trace as their mean.

        Yields:
            ``(*batch, N, C)``, as many columns as :func:`max_block` allows.
        """
        like, shape = self.locked, (*self.batch, self.size)
        width = max(1, max_block(like.device) // max(1, self.batch.numel() * self.size))
        for start in range(0, min(count, self.size), width):
            indices = range(start, min(start + width, count, self.size))
            if count >= self.size:
                unit = torch.zeros(self.size, len(indices), dtype=like.dtype, device=like.device)
                unit[list(indices), list(range(len(indices)))] = self.size**0.5
                yield self.project(unit.expand(*shape, len(indices)))
                continue
            # Drawn one by one: the numbers must not depend on how probes are grouped.
            drawn = [streams.normal(self.size, like=like).reshape(shape) for _ in indices]
            columns = self.project(torch.stack(drawn, dim=-1))
            length = columns.double().norm(dim=-2, keepdim=True)
            radius = self.dimension.clamp(min=0).sqrt()[..., None, None]
            yield columns * (radius / length.clamp(min=torch.finfo(like.dtype).tiny)).to(like.dtype)


def sampling_error(squared_residuals: Tensor, size: int) -> Tensor:
    """The standard error of a mean of forms zᵀAz, ``(*batch,)``, from ‖Az − ρz‖² of each probe.

    Here ρ = zᵀAz/zᵀz. For z uniform on the sphere of radius √n in n dimensions, fourth moments give
    Var(zᵀAz) = 2(n‖A‖²_F − tr²A)/(n + 2) = 2·E‖Az − ρz‖², so each probe tells the variance by
    itself: more surely than the scatter of a few probes does, which for a dominant eigenvalue is
    smallest just when the estimate is too low. Student's t covers what stays uncertain.

    Args:
        squared_residuals: ``(*batch, probes)``.
        size: N; as many probes are the unit vectors, which leave no error.
    """
    count = squared_residuals.shape[-1]
    if count >= size:
        return torch.zeros_like(squared_residuals[..., 0])
    return student(count) * (2 * squared_residuals.mean(-1) / count).sqrt()


def student(degrees_of_freedom: int) -> float:
    """How much wider than normal Student's t is, at two standard deviations."""
    return float(scipy.special.stdtrit(degrees_of_freedom, _BELOW_TWO)) / 2


def require_squarable(operator: LinearOperator, values: Tensor) -> None:
    """Refuse products ``(*batch, …)`` that are not finite, or of which squares over- or underflow.

    Raises:
        ValueError: they are, or do; with the first sample for which that is so.
    """
    flat = values.double().reshape(operator.batch_shape.numel(), -1)
    require_finite(flat, "the operator's products are NaN or infinite")
    size = flat.abs().amax(-1)
    outside = (size > _MOST) | ((size > 0) & (size < _LEAST))
    if outside.any():
        sample = int(outside.int().argmax())
        raise ValueError(
            f"the operator's products in sample {sample}, about {size[sample].item():.0e}, have "
            "squares outside of the range of torch.float64; scale the operator"
        )

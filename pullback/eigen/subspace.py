"""Orthonormal bases, and what a symmetric operator does on their span, for a batch of samples."""

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import require_finite
from .rayleigh_ritz import sign_of
from .records import EigenPairs

# Length of what is new in a unit vector, or in a combination of them, under which it counts as
# dependent. Both together may blow up rounding errors by 1e12, which a second round still mends.
DEPENDENT = 1e-6


def accepted_residual(values: Tensor, norm: Tensor, tol: float, dtype: torch.dtype) -> Tensor:
    """max(tol·|λ|, 32·eps·‖A‖) for values ``(B, k)`` and norms ``(B,)``, eps that of ``dtype``."""
    noise = 32 * torch.finfo(dtype).eps * norm
    return torch.maximum(tol * values.abs(), noise.unsqueeze(-1))


def verified(
    A: LinearOperator,
    candidates: Tensor,
    tol: float,
    norm: Tensor,
    n_products: Tensor,
    iterations: Tensor,
) -> EigenPairs:
    """The eigenpairs of A restricted to a subspace, with residuals from explicit products.

    Args:
        A: symmetric, ``(B, n, n)``.
        candidates: ``(B, n, k)`` float64, linearly independent.
        tol: see :func:`accepted_residual`.
        norm: ``(B,)``, the largest Ritz value in modulus that was met.
        n_products: ``(B,)``, products so far; k are added.
        iterations: ``(B,)``.
    """
    basis = torch.linalg.qr(candidates)[0].to(A.dtype)
    images = product(A, basis)
    values, rotation = torch.linalg.eigh(projected(basis.double(), images))
    values, rotation = values.flip(-1), rotation.flip(-1)
    vectors = (basis.double() @ rotation).to(A.dtype)
    residuals = images @ rotation - vectors.double() * values.unsqueeze(-2)
    residual_norms = residuals.norm(dim=-2)
    norm = torch.maximum(norm, values.abs().amax(-1))
    return EigenPairs(
        values=values.to(A.dtype),
        vectors=vectors * sign_of(vectors),
        residual_norms=residual_norms.to(A.dtype),
        converged=residual_norms <= accepted_residual(values, norm, tol, A.dtype),
        n_products=int(n_products.max()) + values.shape[-1],
        iterations=iterations,
    )


def product(A: LinearOperator, block: Tensor) -> Tensor:
    """A times columns ``(B, n, C)``, computed in A's dtype, in float64."""
    if block.shape[-1] == 0:
        return block
    images = A @ block.to(A.dtype)
    require_finite(images, "the operator's product is NaN or infinite")
    return images.double()


def projected(basis: Tensor, images: Tensor) -> Tensor:
    """BᵀAB for a basis and its images AB, both ``(B, n, m)``; symmetric to the last bit."""
    matrix = basis.mT @ images
    return (matrix + matrix.mT) / 2


def ritz(matrices: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(B, m)``, ascending, and vectors of symmetric matrices ``(B, m, m)``.

    Directions that are not ``valid`` (``(B, m)`` bool; rows and columns of zeros) come first.
    """
    bound = torch.linalg.matrix_norm(matrices)
    below = torch.where(bound > 0, -2 * bound, -1.0).unsqueeze(-1)
    shifted = matrices + torch.diag_embed(torch.where(valid, 0.0, below))
    values, vectors = torch.linalg.eigh(shifted)
    return values, vectors


def project_out(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Take an orthonormal basis ``(B, n, m)`` out of columns ``(B, n, C)``.

    Classical Gram–Schmidt, twice, which is enough (Parlett 1980, §6.9).

    Returns:
        the columns, and their coefficients ``(B, m, C)`` in the basis.
    """
    first = basis.mT @ block
    block = block - basis @ first
    second = basis.mT @ block
    return block - basis @ second, first + second


def orthonormalised(block: Tensor, basis: Tensor) -> Tensor:
    """An orthonormal basis of what columns ``(B, n, C)`` add to an orthonormal basis.

    Directions that are dependent, or in the span of the basis, become columns of zeros. By
    eigenvectors of the Gram matrix (SVQB: Stathopoulos & Wu, "A block orthogonalization procedure
    with constant synchronization requirements", 2002): unlike QR, that treats all columns alike.
    """
    block = unit(block)
    for _ in range(2):
        block, _ = project_out(block, basis)
        block = unit(torch.where(block.norm(dim=-2, keepdim=True) > DEPENDENT, block, 0.0))
        squares, rotation = torch.linalg.eigh(block.mT @ block)
        lengths = torch.where(squares > DEPENDENT**2, squares, torch.inf).sqrt()
        block = block @ (rotation / lengths.unsqueeze(-2))
    return block


def combined(blocks: list[Tensor], coefficients: Tensor) -> Tensor:
    """Combinations ``(B, k, n)`` of the rows of blocks ``(B, b, n)``; coefficients ``(B, Σb, k)``.

    As many rows are joined at a time as will be returned, so that no tensor has more of them.
    """
    k = coefficients.shape[-1]
    total = blocks[0].new_zeros(len(coefficients), k, blocks[0].shape[-1])
    weights = coefficients.mT.to(total.dtype)
    group: list[Tensor] = []
    for index, block in enumerate(blocks):
        group.append(block)
        rows = sum(member.shape[1] for member in group)
        if rows >= k or index == len(blocks) - 1:
            total += weights[..., :rows] @ torch.cat(group, dim=1)
            group, weights = [], weights[..., rows:]
    return total


def unit(block: Tensor) -> Tensor:
    """Columns of length 1; zeros remain."""
    norms = block.norm(dim=-2, keepdim=True)
    return block / torch.where(norms > 0, norms, 1.0)


def as_start(start: Tensor, A: LinearOperator) -> Tensor:
    """Starting vectors ``(n, p)`` or ``(B, n, p)`` as unit vectors ``(B, n, p)`` in float64.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    batch, n = A.shape[0], A.shape[-1]
    if tuple(start.shape[:-1]) not in ((n,), (batch, n)) or start.shape[-1] == 0:
        raise ValueError(
            f"start must have shape ({n}, p) or ({batch}, {n}, p), got {tuple(start.shape)}"
        )
    block = start.to(dtype=torch.float64, device=A.device).expand(batch, -1, -1)
    require_finite(block, "start is NaN or infinite")
    return unit(block)

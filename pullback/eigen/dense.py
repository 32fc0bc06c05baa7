"""Dense linear algebra on small matrices and thin blocks, for a batch of samples."""

import torch
from torch import Tensor

# Length of what is new in a unit vector, or in a combination of them, under which it counts as
# dependent. Both together may blow up rounding errors by 1e12, which a second round still mends.
DEPENDENT = 1e-6


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices ``(*, m, m)``, on the host.

    On a GPU, batches may come out wrong without a word, and go matrix by matrix if they are large.

    Raises:
        RuntimeError: the vectors are not orthonormal.
    """
    values, vectors = torch.linalg.eigh(matrix.cpu())
    _require_orthonormal(vectors)
    return values.to(matrix.device), vectors.to(matrix.device)


def eigvalsh(matrix: Tensor) -> Tensor:
    """The eigenvalues alone."""
    return torch.linalg.eigvalsh(matrix.cpu()).to(matrix.device)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ, descending, and Vᵀ of matrices ``(*, m, n)``, thin, on the host as :func:`eigh`."""
    U, sigma, Vt = torch.linalg.svd(matrix.cpu(), full_matrices=False)
    _require_orthonormal(U)
    _require_orthonormal(Vt.mT)
    return U.to(matrix.device), sigma.to(matrix.device), Vt.to(matrix.device)


def _require_orthonormal(vectors: Tensor) -> None:
    """Refuse columns Q with ‖QᵀQ − I‖ far beyond rounding error: a library has gone wrong."""
    gram = vectors.mT @ vectors
    gram.diagonal(dim1=-2, dim2=-1).sub_(1)
    allowed = torch.finfo(vectors.dtype).eps ** 0.5
    if gram.numel() and not gram.abs().max() <= allowed:  # nor NaN
        raise RuntimeError(
            f"a small eigenproblem, {vectors.shape[-2]} rows, came out wrong: its vectors are not "
            f"orthonormal by {gram.abs().max().item():.1e}; PyTorch's linear algebra fails here"
        )


def symmetrise(matrix: Tensor) -> Tensor:
    """(A + Aᵀ)/2, symmetric to the last bit."""
    return (matrix + matrix.mT) / 2


def descending_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(*, m)``, descending, and eigenvectors of symmetric matrices ``(*, m, m)``."""
    values, vectors = eigh(symmetrise(matrix))
    return values.flip(-1), vectors.flip(-1)


def padded_eigh(matrix: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(B, m)``, ascending, and eigenvectors of symmetric matrices ``(B, m, m)``.

    Directions that are not ``valid`` (``(B, m)`` bool; rows and columns of zeros) come first.
    """
    bound = torch.linalg.matrix_norm(matrix)
    below = torch.where(bound > 0, -2 * bound, -1.0).unsqueeze(-1)
    return eigh(matrix + torch.diag_embed(torch.where(valid, 0.0, below)))


def tridiagonal_eigh(diagonal: Tensor, off_diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of tridiagonals ``(*, m)``, ``(*, m − 1)``."""
    matrix = torch.diag_embed(diagonal)
    matrix = matrix + torch.diag_embed(off_diagonal, 1) + torch.diag_embed(off_diagonal, -1)
    return eigh(matrix)


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of symmetric positive semi-definite matrices."""
    values, vectors = eigh(symmetrise(matrix))
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2) @ vectors.mT


def project_out(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Take an orthonormal basis ``(*, n, m)`` out of columns ``(*, n, C)``.

    By classical Gram–Schmidt, of which two rounds are enough (Parlett 1980, §6.9).

    Returns:
        what is left of the columns, and their coefficients ``(*, m, C)`` in the basis.
    """
    coefficients = basis.mT @ block
    block = block - basis @ coefficients
    more = basis.mT @ block
    return block - basis @ more, coefficients + more


def orthonormalise(block: Tensor, basis: Tensor) -> Tensor:
    """An orthonormal basis of what columns ``(B, n, C)`` add to an orthonormal basis.

    Directions that are dependent, or in the span of the basis, become columns of zeros. By
    eigenvectors of the Gram matrix (SVQB: Stathopoulos & Wu, "A block orthogonalization procedure
    with constant synchronization requirements", 2002): unlike QR, that treats all columns alike.
    """
    block = normalise(block)
    for _ in range(2):
        block, _ = project_out(block, basis)
        block = normalise(torch.where(block.norm(dim=-2, keepdim=True) > DEPENDENT, block, 0.0))
        squares, rotation = eigh(block.mT @ block)
        lengths = torch.where(squares > DEPENDENT**2, squares, torch.inf).sqrt()
        block = block @ (rotation / lengths.unsqueeze(-2))
    return block


def normalise(block: Tensor) -> Tensor:
    """Columns of length 1; zeros remain."""
    lengths = block.norm(dim=-2, keepdim=True)
    return block / torch.where(lengths > 0, lengths, 1.0)


def reciprocal(length: Tensor) -> Tensor:
    """1/length, or 0 where the length is 0."""
    return length.reciprocal().masked_fill_(length == 0, 0.0)


def signs(vectors: Tensor) -> Tensor:
    """Of each column's entry of largest modulus: a vector times its sign is the same in any run."""
    # Not aminmax, which is many times slower along this dimension.
    least, most = vectors.amin(dim=-2, keepdim=True), vectors.amax(dim=-2, keepdim=True)
    return torch.where(most >= -least, 1.0, -1.0).to(vectors)


def first_columns(block: Tensor, k: int) -> Tensor:
    """The first k columns, and zeros where there are fewer."""
    return torch.nn.functional.pad(block, (0, k - block.shape[-1]))

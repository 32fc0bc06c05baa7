"""The Lanczos process, for many starting vectors at once, fully reorthogonalised.

Lanczos (1950); with full reorthogonalisation T is that of a matrix next to A, up to rounding
(Parlett, "The Symmetric Eigenvalue Problem", 1980, chapter 13): bounds by quadrature rest on that.
"""

from dataclasses import dataclass, replace

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..base_operator import apply_operator
from ..eigen.convergence import rounding
from ..eigen.dense import project_out, reciprocal
from .probes import Complement, require_squarable


@dataclass(frozen=True)
class Tridiagonal:
    """T of the Lanczos process A Q = Q T + r eₙᵀ, for starts of any shape ``(*starts)``.

    Attributes:
        diagonal: ``(*starts, n)`` float64. After a breakdown it repeats its first entry, which no
            later one is coupled to: such nodes have weight 0.
        off_diagonal: ``(*starts, n)``, the last is ‖r‖; 0 at and after a breakdown.
        mass: ``(*starts,)``, ‖v‖².
        scale: ``(*starts,)``, the size of A as far as it shows.
        precision: 8·√N·eps, relative to A: half for the rounding of its products, half for T's.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    mass: Tensor
    scale: Tensor
    precision: float

    @property
    def allowance(self) -> Tensor:
        """T is exact for a matrix that close to A, ``(*starts,)``."""
        return self.precision * self.scale

    @property
    def exact(self) -> Tensor:
        """Where the Krylov space is invariant, so that rules have no error, ``(*starts,)`` bool."""
        return (self.off_diagonal == 0).any(-1)

    def leading(self, steps: int) -> "Tridiagonal":
        """T as it was after so many steps."""
        return replace(
            self, diagonal=self.diagonal[..., :steps], off_diagonal=self.off_diagonal[..., :steps]
        )


def tridiagonalise(
    operator: LinearOperator,
    start: Tensor,
    steps: int,
    complement: Complement | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tridiagonal]:
    """Tridiagonalise A from every column of ``start`` ``(*batch, N, C)``, fully orthogonalised.

    Args:
        complement: stay in this space, with A projected on it; ``start`` lies in it.
        scale: ``(*batch,)``, a lower bound on ‖A‖, if the complement does not show it.

    Returns:
        Q ``(*batch, C, N, n)`` in the dtype of ``start``, n = min(steps, N), orthonormal columns
        and zeros after a breakdown; and T for ``(*batch, C)`` starts.
    """
    N = operator.shape[-1]
    steps = min(steps, N)
    complement = complement or Complement(operator)
    relative = rounding(operator.shape[-2:], start.dtype)
    length = start.double().norm(dim=-2)
    largest = torch.zeros_like(length) if scale is None else scale.unsqueeze(-1).expand_as(length)
    basis = start.new_zeros(*length.shape, steps, N)
    q = start.mT * reciprocal(length).unsqueeze(-1).to(start.dtype)
    alphas, betas = [], []
    for step in range(steps):
        # A q_n = β_{n−1} q_{n−1} + α_n q_n + β_n q_{n+1}, with α_n = q_nᵀ A q_n
        basis[..., step, :] = q
        product = apply_operator(operator, q.mT)
        alpha = (q * product.mT).double().sum(-1)
        # w = β_n q_{n+1} is what A q_n has outside of all q so far.
        w = complement.project(product).mT.unsqueeze(-1)
        w = project_out(w, basis[..., : step + 1, :].mT)[0].squeeze(-1)
        beta = w.double().norm(dim=-1)
        largest = torch.maximum(largest, torch.maximum(alpha.abs(), beta))
        # N steps span the space, and fewer may be invariant: what is left is rounding.
        beta = torch.where(beta > relative * largest, beta, 0.0) * (step + 1 < N)
        q = (w.double() * reciprocal(beta).unsqueeze(-1)).to(w.dtype)
        alphas.append(alpha)
        betas.append(beta)
    diagonal, off_diagonal = torch.stack(alphas, dim=-1), torch.stack(betas, dim=-1)
    for size in (diagonal, largest):
        require_squarable(operator, size)
    alive = torch.nn.functional.pad((off_diagonal != 0).cumprod(-1)[..., :-1], (1, 0), value=1)
    diagonal = torch.where(alive > 0, diagonal, diagonal[..., :1])
    return basis.mT, Tridiagonal(diagonal, off_diagonal, length.square(), largest, 2 * relative)

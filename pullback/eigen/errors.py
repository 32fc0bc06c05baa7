"""How far an eigenvalue can be from a Ritz value, by its residual."""

import torch
from torch import Tensor


def error_bounds(values: Tensor, residual_norms: Tensor, converged: Tensor) -> Tensor:
    """Bounds on the errors of values ``(*batch, k)``, in their dtype; rounding is left out.

    With orthonormal vectors V of Ritz values Θ and residuals R = GV − VΘ, which are orthogonal to
    V, G differs from an operator that has Θ among its eigenvalues by RVᵀ + VRᵀ, of norm ‖R‖₂. So
    (Weyl) as many eigenvalues of G are within ‖R‖₂ of Θ, each of its own (Parlett 1980, §11.5).
    That holds for any of the vectors as well: values are taken together whose intervals overlap,
    and by themselves otherwise. Singular values are told alike, by the residuals Jᵀu − σv.

    Args:
        values: descending.
        residual_norms: ``(*batch, k)``; the norm of several is at most the root of their squares.
        converged: ``(*batch, k)`` bool; where a value is 0, its residual is then rounding error.
    """
    centres, radii = values.double(), residual_norms.double()
    radii = radii.masked_fill((values == 0) & converged, 0.0)
    size = torch.maximum(centres.abs(), radii).amax(-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    centres, radii = centres / size, radii / size  # squares neither over- nor underflow
    bounds, apart = radii, torch.ones_like(centres[..., 1:], dtype=torch.bool)
    while True:
        lower, upper = centres - bounds, centres + bounds
        still_apart = apart & (lower[..., :-1] > upper[..., 1:])
        if bool((still_apart == apart).all()):
            return (bounds * size).to(values.dtype)
        apart = still_apart
        group = torch.nn.functional.pad(apart.cumsum(-1), (1, 0))
        squares = torch.zeros_like(radii).scatter_add_(-1, group, radii.square())
        bounds = squares.gather(-1, group).sqrt()

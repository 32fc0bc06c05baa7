"""What the weight M of a pullback metric must be: symmetric, semi-definite, finite, and of a size.

A weight that is none of this gives answers that differ from method to method, so it is looked at
once, when a metric is made.
"""

from typing import Any

import torch
from linear_operator import LinearOperator, to_linear_operator
from linear_operator.operators import DenseLinearOperator, DiagLinearOperator, ZeroLinearOperator
from torch import Tensor

from .arguments import plain, require_finite
from .products import full_precision

NOT_FINITE = "the weight is NaN or infinite"
# Rows up to which a tensor is looked at whole.
WHOLE = 1024
# Products with a weight of which only those are known.
STEPS = 24


def weight_for(jacobian: LinearOperator, weight: Any, known: bool = False) -> LinearOperator:
    """The weight as an operator ``(*batch, M, M)`` for a Jacobian ``(*batch, M, N)``.

    Args:
        jacobian: an operator.
        weight: an operator or a tensor, of a batch shape that broadcasts.
        known: whether it is known to be semi-definite; otherwise it is looked at.

    Raises:
        TypeError: it is neither an operator nor a tensor, or of another dtype.
        ValueError: shapes or devices do not match, or see :func:`require_semidefinite`.
    """
    if not isinstance(weight, LinearOperator | Tensor):
        raise TypeError(
            f"the weight must be a linear operator or a tensor, got {type(weight).__name__}"
        )
    *batch, rows = jacobian.shape[:-1]
    try:
        fits = torch.broadcast_shapes(weight.shape[:-2], batch) == jacobian.batch_shape
    except RuntimeError:
        fits = False
    if weight.shape[-2:] != (rows, rows) or not fits:
        raise ValueError(
            f"the weight must have shape (..., {rows}, {rows}) for a Jacobian of shape "
            f"{tuple(jacobian.shape)}, or one that broadcasts to its batch, got "
            f"{tuple(weight.shape)}"
        )
    if weight.dtype != jacobian.dtype:
        raise TypeError(
            f"the weight must be {plain(jacobian.dtype)} as the Jacobian is, got "
            f"{plain(weight.dtype)}"
        )
    operator = to_linear_operator(weight)
    if isinstance(operator, ZeroLinearOperator):  # its products are none of tensors
        zeros = torch.zeros(operator.shape[:-1], dtype=jacobian.dtype, device=jacobian.device)
        operator = DiagLinearOperator(zeros)
    # An identity may be on no device.
    if None not in (operator.device, jacobian.device) and operator.device != jacobian.device:
        raise ValueError(
            f"the weight is on {operator.device} but the Jacobian on {jacobian.device}; move one"
        )
    if not known:
        # Kernels of gpytorch, on their own or in a sum, have products only after this.
        operator = operator.representation_tree()(*operator.representation())
        require_semidefinite(operator)
    if operator.batch_shape == jacobian.batch_shape:
        return operator
    return operator.expand(*jacobian.batch_shape, rows, rows)


@torch.no_grad()
@full_precision()
def require_semidefinite(weight: LinearOperator) -> None:
    """Refuse a weight ``(*batch, M, M)`` that is not finite, symmetric, positive semi-definite.

    Tensors of up to WHOLE rows and diagonals are looked at entry by entry. Of larger ones, and of
    operators known by their products, it is QᵀMQ that is looked at, with a basis Q of the Krylov
    space of a random vector, from STEPS products: eigenvalues at the ends of a spectrum show there
    first. That refuses nothing that is right, and may let pass what is negative by little, such as
    one eigenvalue of −1e-2·‖M‖ among 10 000. Rounding is forgiven, 4·√M·eps·‖M‖.

    Raises:
        ValueError: it is not; with the first sample for which that shows, and how.
    """
    rows = weight.shape[-1]
    rounding = 4 * rows**0.5 * torch.finfo(weight.dtype).eps
    if isinstance(weight, DiagLinearOperator):
        _require_positive_entries(weight._diagonal().double().reshape(-1, rows), rounding)
        return
    whole = isinstance(weight, DenseLinearOperator) and rows <= WHOLE
    T = weight.to_dense().double() if whole else _compress(weight)
    T = T.reshape(-1, *T.shape[-2:])
    require_finite(T, NOT_FINITE)
    noise = rounding * T.abs().sum(-1).amax(-1)  # of the ∞-norm, between ‖T‖ and √M·‖T‖
    _require_symmetric(T, noise)
    _require_positive_forms(T, noise)


def _require_positive_entries(diagonal: Tensor, rounding: float) -> None:
    require_finite(diagonal, NOT_FINITE)
    least, most = diagonal.amin(-1), diagonal.amax(-1)
    bad = (least < -rounding * diagonal.abs().amax(-1)).nonzero()
    if len(bad):
        _refuse_negative(int(bad[0]), least, most)


def _require_symmetric(T: Tensor, noise: Tensor) -> None:
    difference = (T - T.mT).abs().amax((-2, -1))
    bad = (difference > noise).nonzero()
    if len(bad):
        sample = int(bad[0])
        raise ValueError(
            f"the weight M must be symmetric, but in sample {sample} uᵀMv and vᵀMu differ by "
            f"{difference[sample].item():.3g} for unit vectors u and v, where such products are "
            f"up to {T[sample].abs().max().item():.3g}"
        )


def _require_positive_forms(T: Tensor, noise: Tensor) -> None:
    # T + noise has a Cholesky factor if no eigenvalue of T is below −noise; those take far longer.
    T = (T + T.mT) / 2
    shift = torch.where(noise > 0, noise, 1.0).unsqueeze(-1).expand(T.shape[:-1])
    bad = torch.linalg.cholesky_ex(T + torch.diag_embed(shift)).info.nonzero()
    if len(bad):
        eigenvalues = torch.linalg.eigvalsh(T)
        _refuse_negative(int(bad[0]), eigenvalues[..., 0], eigenvalues[..., -1])


def _refuse_negative(sample: int, least: Tensor, most: Tensor) -> None:
    raise ValueError(
        f"the weight M must be positive semi-definite, but in sample {sample} vᵀMv "
        f"reaches from {least[sample].item():.3g} to {most[sample].item():.3g} for unit vectors v"
    )


def _compress(weight: LinearOperator) -> Tensor:
    """QᵀMQ for an orthonormal basis Q of a Krylov space, ``(*batch, n, n)`` float64.

    Whatever rounding does to Q, that is symmetric and semi-definite if M is.
    """
    rows, batch = weight.shape[-1], weight.batch_shape
    start = torch.randn(rows, 1, generator=torch.Generator().manual_seed(0), device="cpu")
    w = start.to(dtype=torch.float64, device=weight.device).expand(*batch, rows, 1)
    Q = images = w[..., :0]
    for _ in range(min(rows, STEPS)):
        # The next vector is M times the last one, outside of the others.
        for _ in range(2):
            w = w - Q @ (Q.mT @ w)
            length = w.norm(dim=-2, keepdim=True)
            w = w / torch.where(length > 0, length, 1.0)
        Q = torch.cat([Q, w], dim=-1)
        w = weight._matmul(w.to(weight.dtype)).double()
        images = torch.cat([images, w], dim=-1)
    return Q.mT @ images

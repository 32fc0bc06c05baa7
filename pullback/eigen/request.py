"""What is asked of an eigensolver: one record, that each of them takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from linear_operator import LinearOperator
from torch import Tensor

from ..arguments import is_number, require_choice, require_integer
from .cost import METHODS
from .records import Spectrum
from .warm_start import WarmStart

Preconditioner: TypeAlias = LinearOperator | Callable[[Tensor], Tensor]

# For which samples, ``(B,)`` bool, enough of the spectrum is known.
StoppingRule: TypeAlias = Callable[[Spectrum], Tensor]

ENDS = ("largest", "smallest", "both")


@dataclass(frozen=True)
class Request:
    """What is asked of an eigensolver; see :func:`pullback.eigsh` for what is not described here.

    Attributes:
        k, method, tol, which, block, warm_start, preconditioner: as for :func:`pullback.eigsh`.
        stopping_rule: what else must be known of the spectrum, beside k eigenpairs.
        start: ``(n, p)`` or ``(B, n, p)``, approximate eigenvectors of the operator; of a pullback
            metric, singular vectors on the smaller side of its J, ``(m, p)``.
        max_basis: vectors that are kept for a sample; each method has its own default.
        max_steps: give up on samples that need more.
        triplets: singular values σ of J are wanted, as accurate as σ₁, rather than their squares.
    """

    k: int
    method: str = "auto"
    tol: float = 1e-4
    stopping_rule: StoppingRule | None = None
    which: str = "largest"
    block: int = 1
    warm_start: WarmStart | None = None
    preconditioner: Preconditioner | None = None
    start: Tensor | None = None
    max_basis: int | None = None
    max_steps: int | None = None
    triplets: bool = False


def check_request(operator: LinearOperator, request: Request) -> Request:
    """Refuse what cannot be done for this operator, one sentence each; k as a plain integer.

    Raises:
        TypeError: k or block is no integer.
        ValueError: an argument is out of range, or does not go with the method.
    """
    method = require_choice("method", request.method, ("auto", *METHODS))
    k = require_integer("k", request.k, 1, operator.shape[-1], "N")
    if not is_number(request.tol) or not 0 < request.tol < 1:
        raise ValueError(f"tol={request.tol!r} must lie between 0 and 1")
    require_integer("block", request.block, 1)
    if request.block > 1 and method != "golub-kahan":
        raise ValueError(f"block={request.block} is for method='golub-kahan', not {method!r}")
    if request.preconditioner is not None and method != "lobpcg":
        raise ValueError(f"a preconditioner is for method='lobpcg', not {method!r}")
    require_choice("which", request.which, ENDS)
    if request.which != "largest" and method not in ("auto", "lanczos"):
        raise ValueError(f"which={request.which!r} is for method='lanczos', not {method!r}")
    return replace(request, k=k)

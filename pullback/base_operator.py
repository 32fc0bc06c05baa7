"""What operators share that know their products, not their entries.

Rules of linear_operator that shape them: positional arguments are what batch operations act on;
every tensor that autograd may want is an argument; ``__init__`` runs again for each product.
"""

from collections.abc import Sequence
from typing import Any

import torch
from linear_operator import LinearOperator, to_linear_operator
from linear_operator.utils.broadcasting import _matmul_broadcast_shape
from torch import Tensor

from .indexing import coordinates, entries, keeps_matrix, plain_index, shape_at, takes_nothing
from .products import full_precision, in_transform, max_block


class OperatorOfProducts(LinearOperator):
    """What our operators share: autograd to any order, and the indices of a tensor."""

    @property
    def device(self) -> torch.device:
        """Where products are; an identity made without a device is on the default one."""
        return super().device or torch.get_default_device()

    def matmul(self, other: Tensor | LinearOperator) -> Any:
        """The product with a tensor ``(*batch, N, C)`` or ``(N,)``, or with another operator.

        With gradients enabled it is differentiable any number of times, with respect to ``other``
        and to all that the operator is made from. It takes less time without them.
        """
        native = torch.is_grad_enabled() or in_transform()
        if isinstance(other, LinearOperator) or not native:
            return super().matmul(other)
        # linear_operator's own function differentiates only once.
        _matmul_broadcast_shape(self.shape, other.shape)
        return self._matmul(other)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """On another device or in another dtype; arguments are those of ``torch.Tensor.to``."""
        # linear_operator overlooks devices given as strings.
        like = torch.empty(0, dtype=self.dtype, device=self.device).to(*args, **kwargs)
        return super().to(device=like.device, dtype=like.dtype)

    def add_diagonal(self, diag: Tensor) -> LinearOperator:
        """The sum with a diagonal ``(*batch, N)``, ``(*batch, 1)`` or ``()``.

        A single number may be on the host, as in sums of tensors.
        """
        if diag.dim() == 0:  # of more dimensions once linear_operator has it, so that it must move
            diag = diag.to(self.device)
        return super().add_diagonal(diag)

    def _set_requires_grad(self, val: bool) -> None:
        # Operators that contain this one set what it has already; all of the map's own tensors,
        # buffers as well, would be marked.
        if val != self.requires_grad:
            super()._set_requires_grad(val)

    @full_precision()
    def _bilinear_derivative(self, left_vecs: Tensor, right_vecs: Tensor) -> tuple:
        """∂(Σ leftᵀ A right) by each tensor of A, which can be differentiated in its turn."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            parts, operator = self._parts()
            wanted = [part for part in parts if part.requires_grad]
            product = (left_vecs * operator._matmul(right_vecs)).sum()
            found = iter(
                torch.autograd.grad(product, wanted, create_graph=again, allow_unused=True)
                if wanted
                else ()
            )
        return tuple(next(found) if part.requires_grad else None for part in parts)

    def _parts(self) -> tuple[Sequence[Tensor], LinearOperator]:
        """Tensors, one for each of the representation, and the operator that is made of them."""
        # Views: where one tensor was made from another, that way is not part of it.
        parts = [t.view_as(t) if t.requires_grad else t for t in self.representation()]
        return parts, self.representation_tree()(*parts)

    def __getitem__(self, index: Any) -> Any:
        """What a tensor has at this index: an operator where rows and columns remain, or a tensor.

        Raises:
            IndexError: the index is out of range, or none that :func:`plain_index` knows.
        """
        plain = plain_index(index, self.shape, self.device)
        if takes_nothing(plain, self.shape):
            nothing = torch.empty(shape_at(plain, self.shape), dtype=self.dtype, device=self.device)
            tensor = not keeps_matrix(plain) or any(isinstance(part, int) for part in plain[-2:])
            return nothing if tensor else to_linear_operator(nothing)
        if keeps_matrix(plain):
            return super().__getitem__(plain)
        *batch, row, column = coordinates(plain, self.shape, self.device)
        return self._get_indices(row, column, *batch)

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch: Tensor) -> Tensor:
        width = max_block(self.device) // (self.batch_shape.numel() * max(self.shape[-2:]))
        return entries(self, row_index, col_index, batch, max(1, width))


def apply_operator(operator: LinearOperator, columns: Tensor) -> Tensor:
    """The product of any operator with columns ``(*batch, N, C)``, as a tensor."""
    # What is evaluated lazily is so by its public product alone; ours is fastest without it.
    if isinstance(operator, OperatorOfProducts):
        return operator._matmul(columns)
    product = operator @ columns
    # That of a zero operator is one.
    return product if isinstance(product, Tensor) else product.to_dense().to(columns)

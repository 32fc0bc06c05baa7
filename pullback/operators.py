"""The Jacobian of a map, and pullback metrics: linear operators that know their products alone."""

from typing import Any

import torch
from linear_operator import LinearOperator, to_linear_operator
from torch import Tensor

from .base_operator import OperatorOfProducts
from .maps import Map, combine_noise, stack
from .products import (
    AutogradLinearization,
    Linearization,
    RecentLinearizations,
    address,
    find_once,
    full_precision,
    identity,
    identity_blocks,
    in_transform,
    is_launch_bound,
    linearize,
    max_block,
    refuse_transforms,
    steady_tensors,
    with_batch_as_columns,
)
from .weights import weight_for

# Marks the keyword arguments of JacobianOperator that are the map's own tensors.
PREFIX = "parameter."


class JacobianOperator(OperatorOfProducts):
    """The Jacobian of a map at x, ``(*batch, M, N)``; products are a JVP and, transposed, a VJP.

    Made by :func:`pullback.jacobian`. M counts the entries of [μ; σ], or of μ if the map is
    deterministic, or of the sample z = μ + ε⊙σ if there is noise.

    Args:
        x: ``(*batch, N)``, the base point, flattened.
        samplewise: what else belongs to each sample, flattened: the map's further arguments, of any
            dtype, ``(*batch, n)`` each; and then the noise ε, ``(*batch, R)``, or nothing.
        fn: the map.
        event_shape: the shape of an event before flattening; it has N entries.
        num_outputs: M.
        given_shapes: the shapes of the map's further arguments for one sample.
        transposed: whether this is Jᵀ.
        memory: shared between an operator and those derived from it; holds the linearisation.
        tensors: the map's parameters and buffers, by name, with the prefix ``"parameter."``.
    """

    def __init__(
        self,
        x: Tensor,
        *samplewise: Tensor,
        fn: Map,
        event_shape: torch.Size,
        num_outputs: int,
        given_shapes: tuple[torch.Size, ...] = (),
        transposed: bool = False,
        memory: RecentLinearizations | None = None,
        **tensors: Tensor,
    ) -> None:
        memory = memory or RecentLinearizations()
        super().__init__(
            x,
            *samplewise,
            fn=fn,
            event_shape=event_shape,
            num_outputs=num_outputs,
            given_shapes=given_shapes,
            transposed=transposed,
            memory=memory,
            **tensors,
        )
        self.x, self.samplewise, self.fn, self.memory = x, samplewise, fn, memory
        self.given_shapes = given_shapes
        self.event_shape, self.num_outputs, self.transposed = event_shape, num_outputs, transposed
        # In a fixed order: linear_operator hands keyword arguments back in another one.
        self.tensors = {name.removeprefix(PREFIX): tensors[name] for name in sorted(tensors)}

    @property
    def noise(self) -> Tensor | None:
        """ε, if this is the Jacobian of a sample."""
        return self.samplewise[-1] if len(self.samplewise) > len(self.given_shapes) else None

    def to(self, *args: Any, **kwargs: Any) -> "JacobianOperator":
        """On another device or in another dtype; integers stay integers."""
        moved = super().to(*args, **kwargs)
        pairs = zip(self._args, moved._args, strict=True)
        kept = [new if old.is_floating_point() else old.to(new.device) for old, new in pairs]
        return self.__class__(*kept, **moved._kwargs)

    def _size(self) -> torch.Size:
        *batch, n = self.x.shape
        return torch.Size((*batch, *((n, self.num_outputs)[:: 1 if self.transposed else -1])))

    def _transpose_nonbatch(self) -> "JacobianOperator":
        return self.__class__(*self._args, **self._kwargs | {"transposed": not self.transposed})

    def _expand_batch(self, batch_shape: torch.Size) -> "JacobianOperator":
        args = [arg.expand(*batch_shape, arg.shape[-1]) for arg in self._args]
        return self.__class__(*args, **self._kwargs)

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self._product(rhs, self.transposed)

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        return self._product(rhs, not self.transposed)

    def _product(self, rhs: Tensor, transposed: bool) -> Tensor:
        if rhs.ndim == 1:
            return self._product(rhs.unsqueeze(-1), transposed).squeeze(-1)
        refuse_transforms()
        if rhs.device != self.device:
            raise ValueError(
                f"the vectors are on {rhs.device} but the operator on {self.device}; move one"
            )
        linearization = self._linearization()
        product = linearization.vjp if transposed else linearization.jvp
        return with_batch_as_columns(product, rhs, self.batch_shape)

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        chosen = super()._getitem(row_index, col_index, *batch_indices)
        one_to_one = len(self.batch_shape) == len(chosen.batch_shape) == 1
        if isinstance(chosen, JacobianOperator) and one_to_one:
            self.memory.restrict(self._sources(), chosen._sources(), batch_indices[0])
        return chosen

    def _sources(self) -> list[Tensor]:
        """All tensors that a linearisation depends on."""
        return [*self._args, *self.tensors.values(), *self._constants()]

    def _constants(self) -> list[Tensor]:
        fn = self.fn
        return find_once(("constants", fn), lambda: [*fn.constants(), *fn.discrete_tensors()])

    def linearize(self) -> None:
        """Do the primal work of all samples at once, for operators of some of them to share.

        Not where products are replayed, which take as long for some samples as for all.
        """
        if not is_launch_bound(self.x):
            self._linearization()

    def _linearization(self) -> Linearization:
        sources = self._sources()
        if torch.is_grad_enabled() and any(t.requires_grad for t in sources):
            return self._linearize(differentiable=True)
        return self.memory.get(sources, self._linearize)

    def _linearize(self, differentiable: bool = False) -> Linearization:
        flat = self.x.reshape(-1, self.x.shape[-1])
        shared = list(self.tensors.values())
        samplewise = [tensor.reshape(len(flat), tensor.shape[-1]) for tensor in self.samplewise]
        if differentiable:
            inputs = *shared, *samplewise
            return AutogradLinearization(
                lambda x: self._stacked(x, *inputs), flat, differentiable=True
            )
        constants = tuple(map(address, self._constants()))
        arguments = *self.given_shapes, *(tensor.dtype for tensor in samplewise)
        key = self.event_shape, arguments, tuple(self.tensors), constants
        return linearize(self._stacked, flat, shared, samplewise, key, self.fn)

    def _stacked(self, x: Tensor, *inputs: Tensor) -> Tensor:
        """F, ``(B, N) → (B, M)``, of the map's tensors and what belongs to each sample as well."""
        tensors = dict(zip(self.tensors, inputs, strict=False))
        samplewise = inputs[len(tensors) :]
        given = [
            tensor.reshape(len(tensor), *shape)
            for tensor, shape in zip(samplewise, self.given_shapes, strict=False)
        ]
        mean, std = self.fn(x.reshape(-1, *self.event_shape), *given, tensors=tensors)
        if self.noise is None:
            outputs = stack(mean, std)
        else:
            outputs = combine_noise(mean, std, samplewise[-1])
        if outputs.shape[1] != self.num_outputs:
            raise ValueError(
                f"the map returned {outputs.shape[1]} numbers for a sample, and {self.num_outputs} "
                "when it was first looked at; declare what it is now with pb.as_map"
            )
        return outputs

    def to_dense(self) -> Tensor:
        """The matrix itself, ``(*batch, M, N)``, from M VJPs or N JVPs, whichever are fewer."""
        rows, columns = self.shape[-2:]
        if rows < columns:
            return self.mT._matmul(identity(self, rows)).mT
        return self._matmul(identity(self, columns))


class PullbackMetric(OperatorOfProducts):
    """Jᵀ M J, ``(*batch, N, N)``: the pullback of the metric M along a map with Jacobian J.

    Made by :func:`pullback.expected_metric`, :func:`pullback.sampled_metric`, or by hand.

    Args:
        jacobian: any linear operator ``(*batch, M, N)``; a tensor is taken as a dense one.
        weight: symmetric positive semi-definite, ``(*batch, M, M)`` or broadcasting to it, a
            linear operator or a tensor; the identity if absent.
        checked: whether the weight is known to be that already, as in operators made from this one.
            Otherwise it is looked at here, once: a tensor of up to 1024 rows or a diagonal whole,
            anything else by 24 products. Pullback metrics are semi-definite as they are made.

    Raises:
        TypeError: the weight is no operator or tensor, or of another dtype than the Jacobian.
        ValueError: the shapes or devices do not match; the weight is NaN, not symmetric, or
            indefinite.
    """

    def __init__(
        self,
        jacobian: LinearOperator | Tensor,
        weight: LinearOperator | Tensor | None = None,
        *,
        checked: bool = False,
    ) -> None:
        J: LinearOperator = to_linear_operator(jacobian)
        if weight is None:
            super().__init__(J)
            self.jacobian, self.weight = J, None
            return
        known = checked or isinstance(weight, PullbackMetric) or in_transform()
        M = weight_for(J, weight, known)
        super().__init__(J, M, checked=True)
        self.jacobian, self.weight = J, M

    def _size(self) -> torch.Size:
        return torch.Size((*self.jacobian.batch_shape, *(self.jacobian.shape[-1],) * 2))

    def _transpose_nonbatch(self) -> "PullbackMetric":
        # The values are symmetric; a gradient with respect to the weight's entries is not.
        if self.weight is None:
            return self
        return self.__class__(self.jacobian, self.weight.mT, **self._kwargs)

    def _expand_batch(self, batch_shape: torch.Size) -> "PullbackMetric":
        args = (arg._expand_batch(batch_shape) for arg in self._args)
        return self.__class__(*args, **self._kwargs)

    @steady_tensors()  # the map's are compared once for both products
    @full_precision()
    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.ndim == 1:
            return self._matmul(rhs.unsqueeze(-1)).squeeze(-1)
        # The images J v of many columns at once would be a large tensor if J has many rows.
        batch = torch.broadcast_shapes(self.batch_shape, rhs.shape[:-2])
        width = max(1, max_block(self.device) // (batch.numel() * self.jacobian.shape[-2]))
        parts = [
            self.jacobian._t_matmul(self.weighted(self.jacobian._matmul(block)))
            for block in rhs.split(width, dim=-1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def weighted(self, columns: Tensor) -> Tensor:
        """M times columns ``(*batch, M, C)``."""
        return columns if self.weight is None else self.weight._matmul(columns)

    @steady_tensors()
    @full_precision()
    def _diagonal(self) -> Tensor:
        rows, columns = self.jacobian.shape[-2:]
        parts = []
        if rows < columns:
            for block in identity_blocks(self, rows):
                J = self.jacobian._t_matmul(block)
                MJ = J if self.weight is None else self.jacobian._t_matmul(self.weighted(block))
                parts.append((J * MJ).sum(-1))
            return torch.stack(parts).sum(0)
        for block in identity_blocks(self, columns):
            J = self.jacobian._matmul(block)
            parts.append((J * self.weighted(J)).sum(-2))
        return torch.cat(parts, dim=-1)

    def trace(self) -> Tensor:
        """The exact trace, ``(*batch,)``, from M VJPs or N JVPs, whichever are fewer.

        :func:`pullback.trace` estimates it with fewer products.
        """
        return self._diagonal().sum(-1)

    @steady_tensors()
    @full_precision()
    def to_dense(self) -> Tensor:
        """The matrix itself, ``(*batch, N, N)``: for tests and small N."""
        J = self.jacobian.to_dense()
        return J.mT @ self.weighted(J)

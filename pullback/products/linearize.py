"""The derivative of a function at a point, by captured graphs where there can be any."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import require_finite
from .cache import Linearization
from .double_backward import NOT_FINITE, AutogradLinearization, double_backward_settings
from .fallback import (
    MIXES,
    are_adjoint,
    find_adjoint,
    log_uncaptured,
    relative_distance,
    require_same_alone,
    rounding_tolerance,
)
from .precision import full_precision

# Captured functions kept for a map, which may be called with events of several shapes.
_MOST = 16
# A captured function is trusted as long as it deviates from autograd by so many times what it did
# at first, or so many rounding errors: attributes in Python that were changed show as more.
_TIMES, _ROUNDING_ERRORS = 16, 64

# By owner; None stands for a function that cannot be captured.
_CAPTURED: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


@full_precision()
def linearize(
    function: Callable[..., Tensor],
    x: Tensor,
    shared: Sequence[Tensor],
    samplewise: Sequence[Tensor],
    key: Hashable,
    owner: object,
) -> Linearization:
    """The derivative of ``function(x, *shared, *samplewise)`` at x, captured if that can be done.

    Graphs know nothing of attributes in Python that the function reads. So the function is also
    computed as it is, and its derivative for the last sample: if the graphs give something else,
    they are captured anew.

    Args:
        function: ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``.
        shared, samplewise: further tensors that it depends on; the latter are ``(B, …)``.
        key: what else a graph depends on.
        owner: whose function it is; captured functions are kept as long as it lives.

    Raises:
        ValueError: ``function`` returned NaN or infinite values.
    """
    # Not in inference mode: neither capturing nor what the function may keep for later would work.
    with torch.inference_mode(False), torch.no_grad():
        x = x.detach().contiguous()
        captured = _linearize_captured(function, x, shared, samplewise, key, owner)
        if captured is not None:
            return captured
        linearization = AutogradLinearization(lambda x: function(x, *shared, *samplewise), x)
        _require_adjoint(linearization, x)
        with double_backward_settings(), torch.no_grad():
            require_same_alone(
                lambda x, *given: function(x, *shared, *given), x, samplewise, linearization.y
            )
        return linearization


def _require_adjoint(linearization: AutogradLinearization, x: Tensor) -> None:
    """Refuse derivatives that are wrong, or mix samples.

    There are layers of which autograd itself computes one wrongly. Maps are validated once, and
    may mix samples in some of the later batches.
    """
    y = linearization.y
    u, v = _draw_like(y), _draw_like(x)
    Jv, Jtu = linearization.jvp(v.unsqueeze(-1)), linearization.vjp(u.unsqueeze(-1))
    Jv, Jtu = Jv.squeeze(-1), Jtu.squeeze(-1)
    if not are_adjoint(x, y, u, v, Jv, Jtu):
        raise ValueError(
            "Jacobian-vector and vector-Jacobian products of the map, by autograd, disagree: "
            "PyTorch computes one of them wrongly, or they are all rounding error; use float64 "
            "inputs, or another memory format"
        )
    if not find_adjoint(x, y, u, v, Jv, Jtu).all():
        raise ValueError(MIXES.format("derivative"))


def _draw_like(tensor: Tensor) -> Tensor:
    """Normal numbers, the same ones in every call."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(tensor.shape, generator=generator, device="cpu")
    return drawn.to(tensor, non_blocking=True)


def _linearize_captured(
    function: Callable[..., Tensor],
    x: Tensor,
    shared: Sequence[Tensor],
    samplewise: Sequence[Tensor],
    key: Hashable,
    owner: object,
) -> Linearization | None:
    """The derivative by graphs that autograd confirms; None if there are none."""
    shapes = [(t.shape[1:], t.dtype) for t in samplewise]
    key = key, x.shape[1], x.dtype, x.device, *((t.shape, t.dtype) for t in shared), *shapes
    kept = captured_functions(owner)
    if kept.get(key, key) is None:
        return None
    try:
        witness = _Witness(function, x, shared, samplewise)
        for _ in range(2):
            if key not in kept:
                kept[key] = None  # until it can be
                kept[key] = _capture(function, x, witness.y.shape[1], shared, samplewise)
            linearization = kept[key].linearize(function, x, shared, samplewise)
            require_finite(linearization.y, NOT_FINITE)
            if witness.confirms(linearization, kept[key]):
                return linearization
            del kept[key]
    except Exception as error:  # whatever capturing trips over, autograd may do without
        log_uncaptured(error)
    return None


def captured_functions(owner: object) -> dict[Hashable, Any]:
    """Those kept for an owner, by what they depend on; the oldest is left out if there are many."""
    kept = _CAPTURED.setdefault(owner, {})
    if len(kept) > _MOST:
        del kept[next(iter(kept))]
    return kept


def _capture(*arguments: Any) -> Any:
    # Imported here: it rests on parts of PyTorch that are not public, and may be missing.
    from .captured import CapturedFunction

    return CapturedFunction(*arguments)


class _Witness:
    """f of all samples, and Jᵀu of the last one, as the function and autograd compute them.

    Attributes:
        x, y: ``(1, N)`` and ``(1, M)``, of the last sample.
        all_y: ``(B, M)``.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        shared: Sequence[Tensor],
        samplewise: Sequence[Tensor],
    ) -> None:
        self.samples = torch.full((1,), len(x) - 1, device=x.device)
        self.x, given = x[self.samples], [tensor[self.samples] for tensor in samplewise]
        linearization = AutogradLinearization(lambda some: function(some, *shared, *given), self.x)
        self.all_y = self.y = linearization.y
        if len(x) > 1:
            # What changed since may show in some samples only.
            with double_backward_settings(), torch.no_grad():
                self.all_y = function(x, *shared, *samplewise)
        self.u, self.v = _draw_like(self.y), _draw_like(self.x)
        self.Jtu = linearization.vjp(self.u.unsqueeze(-1)).squeeze(-1)

    def confirms(self, linearization: Any, captured: Any) -> bool:
        """Whether a captured function gives the same; it remembers how far it was off at first."""
        dtype = self.y.dtype
        Jv, Jtu = self._take_products(linearization)
        found = (
            are_adjoint(self.x, self.y, self.u, self.v, Jv, Jtu).to(dtype),
            relative_distance(linearization.y, self.all_y),
            relative_distance(Jtu, self.Jtu),
        )
        adjoint, *distances = torch.stack(found).tolist()  # at once: the host waits for them
        if not adjoint:
            return False
        distance = max(distances)
        if captured.tolerance is None:
            allowed = max(_TIMES * distance, _ROUNDING_ERRORS * torch.finfo(dtype).eps)
            captured.tolerance = min(allowed, rounding_tolerance(dtype))
        return distance <= captured.tolerance

    def _take_products(self, linearization: Any) -> tuple[Tensor, Tensor]:
        """Jv and Jᵀu of this sample, from a linearisation of the batch."""
        some = linearization.restrict(self.samples)
        if some is not None:
            Jv, Jtu = some.jvp(self.v.unsqueeze(-1)), some.vjp(self.u.unsqueeze(-1))
            return Jv.squeeze(-1), Jtu.squeeze(-1)
        products = []
        for product, vectors in ((linearization.jvp, self.v), (linearization.vjp, self.u)):
            everywhere = vectors.new_zeros(len(linearization.y), vectors.shape[1], 1)
            everywhere[self.samples] = vectors.unsqueeze(-1)
            products.append(product(everywhere)[self.samples].squeeze(-1))
        return products[0], products[1]

"""The derivative of a function at a point, by captured graphs where there can be any."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..arguments import require_finite
from .cache import Linearization
from .captured import CapturedLinearization, Trace, traces_of
from .double_backward import NOT_FINITE, AutogradLinearization
from .precision import float32_proper


def linearize(
    function: Callable[..., Tensor],
    x: Tensor,
    shared: Sequence[Tensor],
    samplewise: Sequence[Tensor],
    key: Hashable,
    owner: object,
) -> Linearization:
    """The derivative of ``function(x, *shared, *samplewise)`` at x, traced if that can be done.

    A trace knows nothing of attributes in Python that the function reads. So the function is also
    called as it is, for the first and the last sample: if the trace returns something else, it is
    made anew.

    Args:
        function: ``(B, N) → (B, M)``, sample by sample.
        x: ``(B, N)``.
        shared, samplewise: further tensors that it depends on; the latter are ``(B, …)``.
        key: what else a trace depends on.
        owner: whose function it is; traces are kept as long as it lives.

    Raises:
        ValueError: ``function`` returned NaN or infinite values.
    """
    traces = traces_of(owner)
    # Not in inference mode: neither tracing nor what the function may keep for later would work.
    with torch.inference_mode(False), torch.no_grad(), float32_proper(x.device):
        ends = [0, len(x) - 1]
        few = function(x[ends], *shared, *(t[ends] for t in samplewise))
        layout = [(t.shape, t.dtype, t.device) for t in (x[0], *shared)]
        for _ in range(2):
            trace = traces.get(
                (key, *layout), lambda: Trace(function, x, few.shape[1], shared, samplewise)
            )
            if trace is None:
                break
            traced = CapturedLinearization(trace, x, shared, samplewise)
            require_finite(traced.y, NOT_FINITE)
            if _agree(traced.y[ends], few):
                return traced
            traces.forget((key, *layout))
    return AutogradLinearization(lambda x: function(x, *shared, *samplewise), x)


def _agree(a: Tensor, b: Tensor) -> bool:
    tolerance = torch.finfo(b.dtype).eps ** 0.5 * b.abs().max()
    return a.shape == b.shape and bool(((a - b).abs() <= tolerance).all())

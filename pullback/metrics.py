"""The Jacobian and the pullback metrics of an encoder at given inputs."""

from collections.abc import Callable
from typing import Any

import torch
from linear_operator import LinearOperator
from linear_operator.operators import IdentityLinearOperator, KroneckerProductLinearOperator
from torch import Tensor

from .maps import Map, as_map, ordinary
from .operators import PREFIX, JacobianOperator, PullbackMetric, refuse_transforms
from .sampling import SampleStreams, as_generator

Encoder = Map | Callable[..., Any]


def jacobian(fn: Encoder, x: Tensor, *, batch_dims: int = 1) -> JacobianOperator:
    """The Jacobian of the stacked map F = [μ; σ] (of μ alone if ``fn`` is deterministic) at x.

    Args:
        fn: a map (see :func:`pullback.as_map`), or a callable returning a tensor or distribution.
        x: ``(*batch, *event)`` with ``batch_dims`` leading batch dimensions.
        batch_dims: 1 for the usual ``(B, *event)``; 0 for a single sample without batch dimension.

    Returns:
        An operator of shape ``(*batch, 2d, N)``, or ``(*batch, d, N)``, with N the size of an event
        and d that of the mean.

    Raises:
        TypeError, ValueError: see :meth:`pullback.maps.Map.check`.
    """
    return _jacobian(fn, x, batch_dims, None)


def expected_metric(
    encoder: Encoder, x: Tensor, decoder: Encoder | None = None, *, batch_dims: int = 1
) -> PullbackMetric:
    """G = J_μᵀ M J_μ + J_σᵀ M J_σ, the pullback metric expected over the encoder's noise.

    M is the identity (Khan & Storkey 2023, Eq. 4) or, with a decoder, the decoder's own expected
    pullback metric at z = μ(x) (Eq. 11, Appendix B; a deterministic decoder has no J_σ term).

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution.
        x: ``(*batch, *event)`` with ``batch_dims`` leading batch dimensions.
        decoder: likewise; it takes the encoder's mean.
        batch_dims: 1 for the usual ``(B, *event)``; 0 for a single sample without batch dimension.

    Returns:
        An operator of shape ``(*batch, N, N)``, N the size of an event. It remembers its latest
        linearisation, and notices parameters changed in place, but not through ``.data`` or in
        Python attributes: make a new metric after that.

    Raises:
        TypeError, ValueError: see :meth:`pullback.maps.Map.check`.
    """
    encoder = as_map(encoder)
    J = _jacobian(encoder, x, batch_dims, None)
    if decoder is None:
        return PullbackMetric(J)
    batch, event = x.shape[:batch_dims], x.shape[batch_dims:]
    mean, std = encoder(x.reshape(-1, *event))
    weight: LinearOperator = expected_metric(
        decoder, mean.reshape(*batch, *mean.shape[1:]), batch_dims=batch_dims
    )
    if std is not None:
        both = IdentityLinearOperator(2, batch_shape=batch, dtype=x.dtype, device=x.device)
        weight = KroneckerProductLinearOperator(both, weight)
    return PullbackMetric(J, weight)


def sampled_metric(
    encoder: Encoder, x: Tensor, *, generator: torch.Generator | None = None, batch_dims: int = 1
) -> PullbackMetric:
    """G_ε = (J_μ + ε⊙J_σ)ᵀ(J_μ + ε⊙J_σ) for one draw of ε ~ N(0, I) per sample (Sec. 3.1).

    Its expectation is :func:`expected_metric`. Arguments and errors as there; ``generator`` seeds
    ε (without one, the seed is 0), and a sample's ε does not depend on the batch it comes in.
    """
    return PullbackMetric(_jacobian(encoder, x, batch_dims, as_generator(generator)))


def _jacobian(
    fn: Encoder, x: Tensor, batch_dims: int, generator: torch.Generator | None
) -> JacobianOperator:
    refuse_transforms()
    fn = as_map(fn)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch tensor, got {type(x).__name__}")
    if not 0 <= batch_dims < max(x.ndim, 1):
        raise ValueError(f"batch_dims={batch_dims} leaves no event in x of shape {tuple(x.shape)}")
    x = ordinary(x)
    batch, event = x.shape[:batch_dims], x.shape[batch_dims:]
    samples = x.reshape(batch.numel(), *event)
    signature = fn.check(samples)
    num_outputs = signature.num_outputs
    noise: tuple[Tensor, ...] = ()
    if generator is not None and signature.stochastic:
        num_outputs = signature.mean_shape.numel()
        drawn = SampleStreams(len(samples), generator).normal(num_outputs, like=x)
        noise = (drawn.reshape(*batch, num_outputs),)
    parameters: dict[str, Any] = {PREFIX + name: tensor for name, tensor in fn.tensors().items()}
    return JacobianOperator(
        x.reshape(*batch, event.numel()),
        *noise,
        fn=fn,
        event_shape=event,
        num_outputs=num_outputs,
        **parameters,
    )

"""The Jacobian and the pullback metrics of an encoder at given inputs."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from linear_operator import LinearOperator
from linear_operator.operators import IdentityLinearOperator, KroneckerProductLinearOperator
from torch import Tensor

from .arguments import require_tensor
from .averages import Batches, MeanMetric
from .fisher import fisher_information
from .maps import Map, arrange_given, as_map, leave_inference_mode
from .operators import PREFIX, JacobianOperator, PullbackMetric
from .products import full_precision, refuse_transforms
from .sampling import SampleStreams, as_generator

Encoder = Map | Callable[..., Any]


@full_precision()
def jacobian(
    fn: Encoder, x: Tensor, *, given: Sequence[Tensor] = (), batch_dims: int = 1
) -> JacobianOperator:
    """The Jacobian of the stacked map F = [μ; σ] (of μ alone if ``fn`` is deterministic) at x.

    For correlated noise z = μ + Lε, F = [μ; vec L], with the columns of L one after another.

    Args:
        fn: a map (see :func:`pullback.as_map`), or a callable returning a tensor or distribution.
        x: ``(*batch, *event)`` with ``batch_dims`` leading batch dimensions.
        given: further arguments of the map, ``fn(x, *given)``, such as labels, masks or time
            steps: tensors of any dtype, ``(*batch, …)`` each, constant to the derivative.
        batch_dims: 1 for the usual ``(B, *event)``; 0 for a single sample without batch dimension.

    Returns:
        An operator of shape ``(*batch, 2d, N)``, or ``(*batch, d, N)``, with N the size of an event
        and d that of the mean; for correlated noise ε of r numbers, ``(*batch, (1 + r)d, N)``.

    Raises:
        TypeError, ValueError: see :meth:`pullback.Map.check`.
    """
    return _jacobian(fn, x, given, batch_dims, None)


@full_precision()
def expected_metric(
    encoder: Encoder,
    x: Tensor,
    decoder: Encoder | None = None,
    *,
    given: Sequence[Tensor] = (),
    batch_dims: int = 1,
) -> PullbackMetric:
    """G = J_μᵀ M J_μ + J_σᵀ M J_σ, the pullback metric expected over the encoder's noise.

    M is the identity (Khan & Storkey 2023, Eq. 4) or, with a decoder, the decoder's own expected
    pullback metric at z = μ(x) (Eq. 11, Appendix B; a deterministic decoder has no J_σ term). For
    correlated noise z = μ + Lε there is a term for each column of L, in place of that of σ.

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution.
        x: ``(*batch, *event)`` with ``batch_dims`` leading batch dimensions.
        decoder: likewise; it takes the encoder's mean.
        given: further arguments of both maps, ``encoder(x, *given)`` and ``decoder(z, *given)``,
            such as the labels of a conditional VAE: tensors of any dtype, ``(*batch, …)`` each,
            constant to the derivative.
        batch_dims: 1 for the usual ``(B, *event)``; 0 for a single sample without batch dimension.

    Returns:
        An operator of shape ``(*batch, N, N)``, N the size of an event. It remembers its latest
        linearisation, and notices parameters changed in place, but not through ``.data`` or in
        Python attributes: make a new metric after that.

    Raises:
        TypeError, ValueError: see :meth:`pullback.Map.check`.
    """
    encoder = as_map(encoder)
    J = _jacobian(encoder, x, given, batch_dims, None)
    if decoder is None:
        return PullbackMetric(J)
    batch, event = x.shape[:batch_dims], x.shape[batch_dims:]
    mean, std = encoder(x.reshape(-1, *event), *arrange_given(given, x, batch_dims))
    weight: LinearOperator = expected_metric(
        decoder, mean.reshape(*batch, *mean.shape[1:]), given=given, batch_dims=batch_dims
    )
    if std is not None:  # one block for the mean, and one for σ or for each column of L
        blocks = J.num_outputs // mean[0].numel()
        each = IdentityLinearOperator(blocks, batch_shape=batch, dtype=x.dtype, device=x.device)
        weight = KroneckerProductLinearOperator(each, weight)
    return PullbackMetric(J, weight, checked=True)


@full_precision()
def sampled_metric(
    encoder: Encoder,
    x: Tensor,
    *,
    given: Sequence[Tensor] = (),
    generator: torch.Generator | None = None,
    batch_dims: int = 1,
) -> PullbackMetric:
    """G_ε = (J_μ + ε⊙J_σ)ᵀ(J_μ + ε⊙J_σ) for one draw of ε ~ N(0, I) per sample (Sec. 3.1).

    Its expectation is :func:`expected_metric`. Arguments and errors as there; ``generator`` seeds
    ε (without one, the seed is 0), and a sample's ε does not depend on the batch it comes in.
    """
    return PullbackMetric(_jacobian(encoder, x, given, batch_dims, as_generator(generator)))


@full_precision()
def fisher_metric(
    encoder: Encoder, x: Tensor, *, given: Sequence[Tensor] = (), batch_dims: int = 1
) -> PullbackMetric:
    """F = J_μᵀ Σ⁻¹ J_μ + 2 J_σᵀ Σ⁻¹ J_σ, the Fisher–Rao metric of the posterior q(z|x) = N(μ, Σ).

    It is what the Kullback–Leibler divergence sees of a small step: KL(q(·|x) ‖ q(·|x + η)) is
    ½ ηᵀFη to second order. Σ is diag σ²; for correlated noise z = μ + Lε it is LLᵀ, and the second
    term ½ tr(Σ⁻¹ ∂Σ Σ⁻¹ ∂Σ).

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a distribution.
        x: ``(*batch, *event)`` with ``batch_dims`` leading batch dimensions.
        given: further arguments of the encoder, as for :func:`expected_metric`.
        batch_dims: 1 for the usual ``(B, *event)``; 0 for a single sample without batch dimension.

    Returns:
        An operator of shape ``(*batch, N, N)``, as :func:`expected_metric` does. It has no unit:
        lengths of codes are measured in standard deviations.

    Raises:
        TypeError, ValueError: see :meth:`pullback.Map.check`; and if the encoder is deterministic,
            or Σ singular for one of the samples.
    """
    encoder = as_map(encoder)
    J = _jacobian(encoder, x, given, batch_dims, None)
    batch, event = x.shape[:batch_dims], x.shape[batch_dims:]
    mean, std = encoder(x.reshape(-1, *event), *arrange_given(given, x, batch_dims))
    if std is None:
        raise ValueError(
            "the Fisher metric is that of a distribution, but the map is deterministic; declare "
            "its standard deviation with pb.as_map(fn, returns=…), or take pb.expected_metric"
        )
    return PullbackMetric(J, fisher_information(mean, std, batch), checked=True)


def mean_metric(
    encoder: Encoder,
    batches: Iterable[Any],
    decoder: Encoder | None = None,
    *,
    given: Sequence[int] = (),
) -> MeanMetric:
    """The average of :func:`expected_metric` over a data set, ``(N, N)``, which is never formed.

    Its leading eigenvectors are the directions that move codes the most on the average image. Every
    product reads the whole data set, so take several columns at once. ``pb.eigsh`` and ``pb.trace``
    take it as any other operator; ``method="lanczos"``, the default, needs the fewest passes.

    Args:
        encoder: a map (see :func:`pullback.as_map`), or a callable returning a tensor or
            distribution.
        batches: a list of batches or a ``DataLoader``, which can be read again. A batch is x
            ``(B, *event)``, or a tuple or list of which x is the first item; B may differ, and each
            sample counts alike. They may be shuffled, but must hold the same samples each time.
            They are moved to the device of the encoder's tensors.
        decoder: as for :func:`expected_metric`.
        given: places in a batch of further arguments of the maps, such as ``(1,)`` for labels.

    Returns:
        An operator of shape ``(N, N)`` in the dtype of the data. Its products take part in autograd
        with respect to the maps' parameters, at the cost of a graph of the whole data set.

    Raises:
        TypeError: ``batches`` can be read only once, or an item is no batch.
        ValueError: they are empty, or hold other samples when they are read again; and see
            :meth:`pullback.Map.check`.
    """
    encoder = as_map(encoder)
    decoder = None if decoder is None else as_map(decoder)
    maps = {"encoder": encoder} if decoder is None else {"encoder": encoder, "decoder": decoder}
    own = {f"{role}.{name}": t for role, fn in maps.items() for name, t in fn.tensors().items()}
    read = Batches(batches, given, next((tensor.device for tensor in own.values()), None))
    x, further = read.first()
    first = expected_metric(encoder, x, decoder, given=further)
    return MeanMetric(
        torch.empty(first.shape[-1], 0, dtype=first.dtype, device=first.device),
        batches=read,
        metric_of=partial(expected_metric, encoder, decoder=decoder),
        **own,
    )


def _jacobian(
    fn: Encoder,
    x: Tensor,
    given: Sequence[Tensor],
    batch_dims: int,
    generator: torch.Generator | None,
) -> JacobianOperator:
    refuse_transforms()
    fn = as_map(fn)
    require_tensor("x", x)
    if not 0 <= batch_dims < max(x.ndim, 1):
        raise ValueError(f"batch_dims={batch_dims} leaves no event in x of shape {tuple(x.shape)}")
    x = leave_inference_mode(x)
    batch, event = x.shape[:batch_dims], x.shape[batch_dims:]
    samples = x.reshape(batch.numel(), *event)
    given = [leave_inference_mode(tensor) for tensor in arrange_given(given, x, batch_dims)]
    refuse_transforms(x, *given)
    signature = fn.check(samples, given)
    num_outputs = signature.num_outputs
    samplewise = [tensor.reshape(*batch, tensor[0].numel()) for tensor in given]
    if generator is not None and signature.num_noises:
        num_outputs = signature.mean_shape.numel()
        noise = SampleStreams(len(samples), generator).normal(signature.num_noises, like=x)
        samplewise.append(noise.reshape(*batch, signature.num_noises))
    parameters: dict[str, Any] = {PREFIX + name: tensor for name, tensor in fn.tensors().items()}
    return JacobianOperator(
        x.reshape(*batch, event.numel()),
        *samplewise,
        fn=fn,
        event_shape=event,
        num_outputs=num_outputs,
        given_shapes=tuple(tensor.shape[1:] for tensor in given),
        **parameters,
    )

"""Spectra of which autograd knows the derivative: ∂λ = vᵀ(∂G)v, with the eigenvector v held.

No derivative goes through a solver: what it has found is a basis, in which eigenvalues are
quadratic forms of the metric, and those are differentiated.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .convergence import zero_below
from .dense import descending_eigh, first_columns, normalise, project_out
from .driver import Solution
from .records import PROBES, Spectrum


class Derived(NamedTuple):
    """Eigenvalues and a spectrum with a graph of autograd, and what they cost.

    Attributes:
        values: ``(B, k)`` float64, close to those that were found.
        spectrum: the same as a :class:`Spectrum`; its errors have no derivative.
        n_products: products with J or Jᵀ of a sample.
    """

    values: Tensor
    spectrum: Spectrum
    n_products: int


@torch.no_grad()
def derive(metric: PullbackMetric, found: Solution, streams: SampleStreams) -> Derived:
    """The spectrum of a metric ``(B, N, N)`` again, as a function of all that it depends on.

    The k eigenvalues are forms of the vectors found. Beside them, a solver knows more of the
    spectrum, whose Ritz values are made anew in the span of what it leaves. The trace of the rest
    is seen by six Gaussian probes: of a basis that is held, its derivative is unbiased.
    """
    k, known = found.pairs.values.shape[-1], _count_known(found)
    side, leading, others, n_products = _find_basis(metric, found, known)
    lead = min(k, side.shape[-1])
    basis = torch.linalg.qr(normalise(torch.cat([leading[..., :lead], others], dim=-1)))[0]
    columns = basis
    if found.spectrum.remainder.any():
        probes = streams.normal(side.shape[-1], PROBES, like=basis)
        columns = torch.cat([basis, project_out(probes, basis)[0]], dim=-1)
    columns = columns.to(metric.dtype)
    # Out of inference mode, whose tensors autograd cannot keep.
    spectrum = Spectrum(**{name: tensor.clone() for name, tensor in vars(found.spectrum).items()})

    with torch.enable_grad():
        images = side.jacobian @ columns
        weighted = side.weighted(images).double()
        forms = images.double().mT @ weighted
        size = basis.shape[-1]
        diagonal = forms.diagonal(dim1=-2, dim2=-1)
        inner = forms[..., lead:size, lead:size]
        rotation = descending_eigh(inner.detach())[1]
        values = torch.cat([diagonal[..., :lead], ((inner @ rotation) * rotation).sum(-2)], dim=-1)
        # Where there is nothing but rounding, logarithms have no derivative.
        noise = zero_below(metric.jacobian.shape[-2:], metric.dtype) * values.detach()[:, :1]
        values = torch.where(values > noise.clamp(min=0), values, 0.0)
        remainder = spectrum.remainder
        if size < columns.shape[-1]:
            probed = diagonal[..., size:].mean(-1).cpu()
            remainder = torch.where((remainder > 0) & (probed > 0), probed, remainder)
        spectrum = replace(spectrum, values=values.cpu(), remainder=remainder)
        pairs = first_columns(values[..., :lead], k)
    return Derived(pairs, spectrum, n_products + columns.shape[-1])


def _count_known(found: Solution) -> int:
    """How many of the Ritz values are above rounding in one of the samples at least."""
    values = found.spectrum.values
    eps = torch.finfo(found.pairs.values.dtype).eps
    return int((values > eps * values[:, :1]).sum(-1).max())


def _find_basis(
    metric: PullbackMetric, found: Solution, known: int
) -> tuple[PullbackMetric, Tensor, Tensor, int]:
    """A metric with the non-zero spectrum of this one, and vectors for it; and products taken.

    That is JJᵀ, where it is smaller and there is no weight: a product with Jᵀ takes one backward
    pass, one with J two. The k leading vectors come first, and then up to ``known`` − k others.
    """
    k, (rows, columns) = found.pairs.values.shape[-1], metric.jacobian.shape[-2:]
    wide, n_products = rows <= columns, 0
    side, leading = metric, found.pairs.vectors.double()
    if wide and metric.weight is None:
        side, leading = PullbackMetric(metric.jacobian.mT), found.images
    if found.small_side is None:
        return side, leading, leading[..., :0], n_products
    others = found.small_side[..., k : max(k, known)]
    if wide and side is metric and others.shape[-1]:
        weighted = metric.weighted(normalise(others).to(metric.dtype))
        others, n_products = metric.jacobian._t_matmul(weighted).double(), others.shape[-1]
    elif wide and side is metric:
        others = leading[..., :0]
    return side, leading, others, n_products

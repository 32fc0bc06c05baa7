"""Whether Krylov steps whose products are in TF32 would pay, tried with emulated rounding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from linear_operator import LinearOperator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pullback as pb
from pullback.eigen.golub_kahan import golub_kahan
from pullback.eigen.records import SolverResult
from pullback.eigen.request import Request
from pullback.products import captured, library_call
from pullback.sampling import SampleStreams
from pullback.traces.spectra import ENTROPY_TOL, estimate_entropies, is_entropy_accurate

from .comparison import K, encoder_of
from .estimate import EVENT, spectral_vae
from .report import grid

TOL = 1e-4
# Products of operands in TF32, summed in float32.
_ROUNDED = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")


class RoundedProducts(TorchDispatchMode):
    """Operands of convolutions and matrix products in float32 have 10 bits of mantissa."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func._schema.name.removeprefix("aten::") in _ROUNDED:
            args = tuple(map(round_to_tf32, args))
        return func(*args, **(kwargs or {}))


def round_to_tf32(value: Any) -> Any:
    """To the nearest number of TF32, if it is a tensor in float32."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    return ((value.view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)


class InTF32(LinearOperator):
    """An operator by products in TF32."""

    def __init__(self, base: LinearOperator) -> None:
        super().__init__(base)
        self.base = base

    def _size(self) -> torch.Size:
        return self.base.shape

    def _transpose_nonbatch(self) -> "InTF32":
        return InTF32(self.base.mT)

    def _matmul(self, rhs: Tensor) -> Tensor:
        with RoundedProducts():
            product: Tensor = self.base._matmul(rhs)
        return product

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        with RoundedProducts():
            product: Tensor = self.base._t_matmul(rhs)
        return product


@library_call
def tf32(out: str = "studies/benchmark/tf32.md", images: int = 8) -> None:
    """Take Krylov steps in TF32, and see what it takes to certify their eigenpairs in float32.

    Args:
        out: the page that is written.
        images: of so many.
    """
    x = torch.rand(images, *EVENT, generator=torch.Generator().manual_seed(0))
    with _weights_unpacked():
        metric = pb.expected_metric(encoder_of(spectral_vae()), x)
        full, low = _solve(metric), _solve(pb.PullbackMetric(InTF32(metric.jacobian)))
        V, rows = low.candidates.vectors, []
        rows.append(("float32", full, 0, _residuals(metric, full.candidates.vectors)))
        rows.append(("TF32, Rayleigh–Ritz", low, 2 * K, _residuals(metric, V)))
        V = metric._matmul(V)
        rows.append(("TF32, power step, Rayleigh–Ritz", low, 4 * K, _residuals(metric, V)))
    text = _page(rows, images)
    Path(out).write_text(text)
    print(text)


def _solve(metric: pb.PullbackMetric) -> SolverResult:
    request = Request(K, tol=TOL, stopping_rule=is_entropy_accurate)
    streams = SampleStreams(metric.shape[0], torch.Generator().manual_seed(0))
    return golub_kahan(metric, request, streams)


def _residuals(metric: pb.PullbackMetric, vectors: Tensor) -> Tensor:
    """‖Gv − λv‖/λ ``(B, k)`` of the best pairs in a span, by products in float32."""
    Q = torch.linalg.qr(vectors.double())[0]
    image = metric._matmul(Q.float()).double()
    projected = Q.mT @ image
    values, rotation = torch.linalg.eigh((projected + projected.mT) / 2)
    residuals = image @ rotation - Q @ rotation * values.unsqueeze(-2)
    return residuals.norm(dim=-2) / values


def _entropies(result: SolverResult) -> Tensor:
    assert result.spectrum is not None
    return estimate_entropies(result.spectrum)["trace"].value


@contextmanager
def _weights_unpacked() -> Iterator[None]:
    """As on a GPU: of oneDNN's layout, rounding would not be seen."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("no layout of oneDNN here")

    with patch.object(captured, "pack", refuse):
        yield


def _page(rows: Sequence[tuple[str, SolverResult, int, Tensor]], images: int) -> str:
    """The page, as Markdown."""
    head = ["steps in", "steps", "products in them", "more in float32", "median of ‖Gv − λv‖/λ"]
    head += ["largest", f"images within {TOL:g}", "entropy off by [nats]"]
    exact = _entropies(rows[0][1])
    lines = [
        [
            name,
            f"{result.iterations.double().mean():.1f}",
            str(result.n_products),
            str(more),
            f"{residuals.median():.1e}",
            f"{residuals.max():.1e}",
            f"{int((residuals <= TOL).all(-1).sum())} of {images}",
            f"{(_entropies(result) - exact).abs().max():.1e}",
        ]
        for name, result, more, residuals in rows
    ]
    products, low = rows[0][1].n_products, rows[-1][1].n_products
    about = (
        f"Written by `python -m studies tf32`: k = {K} eigenpairs of {images} images, with the "
        "encoder of `cuda-estimate`. Operands of convolutions and matrix products are rounded to "
        "10 bits of mantissa in the Krylov steps; the Rayleigh–Ritz that certifies is in float32. "
        "A power step applies G to the vectors first, in float32."
    )
    verdict = (
        f"Eigenpairs after steps in TF32 are those of a perturbed G, and miss tol = {TOL:g}. A "
        f"power step mends that, and takes {4 * K} products in float32 with what certifies, beside "
        f"{low} in TF32; steps in float32 take {products} in all, fewer where a spectrum falls "
        "faster. So TF32 would pay where one of its products takes less than "
        f"{(products - 4 * K) / low:.2f} of one in float32. Tensor cores do the arithmetic of an "
        "H100 in a seventh of the time, but what is read and written stays, which "
        "[by estimate](cuda.md) takes most of the time that the arithmetic does in float32: a "
        "product in TF32 would take half to two thirds as long. Nothing certifies the entropy, "
        f"whose error, {ENTROPY_TOL:g} at most, would have to hold what TF32 does to it. Therefore "
        "`pullback.score` has no such option."
    )
    title = "# Krylov steps in TF32"
    return "\n\n".join((title, about, grid(head, lines), verdict)) + "\n"

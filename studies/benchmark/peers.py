"""What else finds leading eigenvalues, trace or entropy of G: the methods we are compared with.

Each takes the stacked map F = [μ; σ], ``(B, *event) → (B, M)``, images and k, and does what a user
of plain PyTorch or of the library in question would do.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from linear_operator.utils.lanczos import lanczos_tridiag
from numpy.typing import NDArray
from scipy.sparse import linalg as scipy_linalg
from torch import Tensor

import pullback as pb

Function = Callable[[Tensor], Tensor]

TOL = 1e-4  # of iterative methods, as ours
COLUMNS = 8  # rows of J that jacrev takes at a time
STEPS = 24  # of linear_operator's Lanczos
MATVECS = 30  # products with G for a trace
DENSITY_STEPS = 32  # Lanczos vectors for a spectral density
PRODUCTS_PER_METRIC = 2  # G v = Jᵀ(J v)


@dataclass(frozen=True)
class Found:
    """What a method says of B images; None where it says nothing.

    Attributes:
        values: ``(B, k)``, the leading eigenvalues, descending.
        trace: ``(B,)``.
        entropy: ``(B,)``, of the spectrum normalised to trace 1.
        products: with J or Jᵀ for an image, if they can be counted.
    """

    values: Tensor | None = None
    trace: Tensor | None = None
    entropy: Tensor | None = None
    products: float | None = None


def of_spectrum(spectrum: Tensor, k: int, products: float | None = None) -> Found:
    """From all eigenvalues, ``(B, r)``."""
    values = spectrum.sort(descending=True).values.clamp(min=0)
    trace = values.sum(-1)
    p = values / trace.unsqueeze(-1)
    return Found(values[:, :k], trace, -torch.xlogy(p, p).sum(-1), products)


def rows_by_autograd(function: Function, x: Tensor) -> Tensor:
    """J, ``(B, M, N)``, by one call of autograd.grad per output, for all images together."""
    x = x.detach().requires_grad_()
    outputs = function(x).sum(0)
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in outputs]
    return torch.stack(rows, dim=1).flatten(2)


def authors_way(function: Function, x: Tensor, k: int) -> Found:
    """One autograd.grad per output, then the SVD of J."""
    J = rows_by_autograd(function, x)
    _, singular, _ = torch.linalg.svd(J, full_matrices=False)
    return of_spectrum(singular.square(), k, J.shape[1])


def by_jacrev(function: Function, x: Tensor, k: int) -> Found:
    """torch.func.jacrev for every image, then eigh of JJᵀ and v = Jᵀu."""
    jacobian = torch.func.jacrev(lambda image: function(image.unsqueeze(0))[0], chunk_size=COLUMNS)
    J = torch.func.vmap(jacobian)(x).flatten(2)
    values, u = torch.linalg.eigh(J @ J.mT)
    torch.nn.functional.normalize(J.mT @ u[..., -k:], dim=-2)
    return of_spectrum(values, k, J.shape[1])


class ImageProducts:
    """J v and Jᵀ u of one image for NumPy vectors, counted.

    By plain autograd, Jᵀu differentiates the graph of one forward pass, and Jv the graph of Jᵀu (as
    torch.autograd.functional.jvp does it, but with both graphs kept); or by an operator of ours.
    """

    def __init__(
        self, function: Function, image: Tensor, operator: pb.JacobianOperator | None = None
    ) -> None:
        self.count = 0
        self._operator = operator
        self._x = image.detach().unsqueeze(0).requires_grad_()
        self._y = function(self._x)
        self._u = torch.zeros_like(self._y, requires_grad=True)
        (self._transposed,) = torch.autograd.grad(self._y, self._x, self._u, create_graph=True)
        self.shape = (self._y.numel(), self._x.numel())

    def jvp(self, v: Tensor) -> Tensor:
        """J v, ``(N,) → (M,)``."""
        self.count += 1
        if self._operator is not None:
            return self._operator @ v
        v = v.view_as(self._x)
        return torch.autograd.grad(self._transposed, self._u, v, retain_graph=True)[0].flatten()

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀ u, ``(M,) → (N,)``."""
        self.count += 1
        if self._operator is not None:
            return self._operator.mT @ u
        u = u.view_as(self._y)
        return torch.autograd.grad(self._y, self._x, u, retain_graph=True)[0].flatten()

    def metric(self, v: Tensor) -> Tensor:
        """G v, ``(N,) → (N,)``."""
        return self.vjp(self.jvp(v))

    def scipy(self, of_metric: bool) -> Any:
        """G or J as SciPy's LinearOperator."""

        def wrapped(product: Function) -> Callable[[NDArray], NDArray]:
            def call(vector: NDArray) -> NDArray:
                tensor = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))
                return product(tensor.to(self._x)).detach().cpu().numpy()

            return call

        dtype = self._x.detach().cpu().numpy().dtype
        if of_metric:
            square = (self.shape[1],) * 2
            return scipy_linalg.LinearOperator(square, wrapped(self.metric), dtype=dtype)
        return scipy_linalg.LinearOperator(
            self.shape, wrapped(self.jvp), rmatvec=wrapped(self.vjp), dtype=dtype
        )


def by_scipy(
    function: Function, x: Tensor, k: int, solver: str, encoder: pb.Map | None = None
) -> Found:
    """scipy.sparse.linalg.svds, or eigsh of G, image by image.

    Args:
        function, x, k: as for all.
        solver: ``"eigsh"``, or a solver of svds.
        encoder: take its products instead of autograd's.
    """
    values, products = [], 0
    generator = np.random.default_rng(0)
    for image in x:
        operator = None if encoder is None else pb.jacobian(encoder, image, batch_dims=0)
        J = ImageProducts(function, image, operator)
        start = generator.standard_normal(J.shape[solver == "eigsh"]).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tolerances missed: the table has the errors
            if solver == "eigsh":
                found, _ = scipy_linalg.eigsh(J.scipy(of_metric=True), k, v0=start, tol=TOL)
            else:
                _, singular, _ = scipy_linalg.svds(
                    J.scipy(of_metric=False), k, v0=start, tol=TOL, solver=solver
                )
                found = singular**2
        values.append(torch.from_numpy(np.sort(found)[::-1].copy()))
        products += J.count
    return Found(values=torch.stack(values), products=products / len(x))


def by_linear_operator(function: Function, x: Tensor, k: int, encoder: pb.Map) -> Found:  # noqa: ARG001
    """Ritz values of linear_operator's Lanczos, on our metric, for all images together."""
    metric = pb.expected_metric(encoder, x)
    with torch.no_grad():
        _, T = lanczos_tridiag(
            metric.matmul,
            min(STEPS, metric.shape[-1]),
            dtype=x.dtype,
            device=x.device,
            matrix_shape=metric.shape[-2:],
            batch_shape=metric.batch_shape,
        )
    return of_spectrum(torch.linalg.eigvalsh(T), k, PRODUCTS_PER_METRIC * T.shape[-1])


def by_curvlinops(function: Function, x: Tensor, k: int, estimator: str) -> Found:  # noqa: ARG001
    """A trace estimator of curvlinops, or its spectral density, image by image.

    Raises:
        ImportError: curvlinops is not installed.
    """
    traces, entropies, products = [], [], 0
    for image in x:
        J = ImageProducts(function, image)
        G = _curvlinops_operator(J, image)
        if estimator == "spectral density":
            trace, entropy = _of_density(G)
            entropies.append(entropy)
        else:
            trace = _curvlinops(estimator)(G, MATVECS)
        traces.append(trace)
        products += J.count
    return Found(
        trace=torch.stack(traces),
        entropy=torch.stack(entropies) if entropies else None,
        products=products / len(x),
    )


def _curvlinops(name: str) -> Any:
    import curvlinops  # it brings torchvision along: only where it is wanted

    return getattr(curvlinops, name)


def _curvlinops_operator(J: ImageProducts, like: Tensor) -> Any:
    from curvlinops._torch_base import PyTorchLinearOperator

    class Metric(PyTorchLinearOperator):
        SELF_ADJOINT, device, dtype = True, like.device, like.dtype

        def _matmat(self, X: list[Tensor]) -> list[Tensor]:
            return [torch.stack([J.metric(v) for v in X[0].mT], dim=-1)]

    return Metric([(J.shape[1],)], [(J.shape[1],)])


def _of_density(G: Any) -> tuple[Tensor, Tensor]:
    """Trace and entropy, as integrals over the density of eigenvalues."""
    grid, density = _curvlinops("lanczos_approximate_spectrum")(
        G, DENSITY_STEPS, boundaries=(0.0, None)
    )
    values = grid.clamp(min=0)
    trace = G.shape[0] * torch.trapezoid(density * values, grid)
    p = values / trace
    return trace, -G.shape[0] * torch.trapezoid(density * torch.xlogy(p, p), grid)


def dense_eigh(
    J: Tensor, event: torch.Size, k: int, limit: float, clock: Callable[..., Any]
) -> tuple[Tensor, float, Found]:
    """eigh of G written down, for the largest square of pixels that takes about ``limit`` seconds.

    Args:
        J: ``(M, N)``, of one image.
        event: its shape.
        k: eigenvalues.
        limit: seconds; eigh takes N³.
        clock: see :func:`studies.benchmark.timing.clock`.

    Returns:
        J of the square, ``(M, N')``, seconds of eigh, and what it found.
    """
    side = min(event[1:])
    width = max(1, side // 8)
    while True:
        top = (side - width) // 2
        square = J.unflatten(1, event)[..., top : top + width, top : top + width].flatten(1)
        seconds, (values, _) = clock(partial(torch.linalg.eigh, square.mT @ square))
        wider = min(side, max(width + 1, 3 * width // 2))
        if width == side or seconds * (wider / width) ** 6 > limit:
            return square, seconds, of_spectrum(values.unsqueeze(0), k)
        width = wider

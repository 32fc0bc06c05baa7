"""Block Golub–Kahan–Lanczos bidiagonalisation of a batch of Jacobians, with thick restart.

Golub & Kahan (1965); orthogonalised on the small side only, after Simon & Zha, "Low-rank matrix
approximation using the Lanczos bidiagonalization process" (2000); restarted after Baglama &
Reichel, "Augmented implicitly restarted Lanczos bidiagonalization methods" (2005).
"""

import copy

import torch
from torch import Tensor

from ..arguments import require_finite
from ..operators import PullbackMetric
from ..sampling import SampleStreams
from .records import PROBES, Candidates, Spectrum, rounding
from .subspace import combined


class Bidiagonalisation:
    """A batch of factorisations J V = U H, JᵀM U = V Hᵀ + F Cᵀ, of which each grows by blocks.

    U is orthonormal in the inner product of the weight M, V and the next block F are orthonormal.
    Vectors are rows: ``small.basis`` is U ``(B, j, m)`` in float64, ``blocks`` hold V, each
    ``(B, b, n)`` in the metric's dtype, ``next`` is F; ``H`` is ``(B, j, s)``, ``C`` is
    ``(B, j, b)``. H is lower bidiagonal (by blocks) until a restart puts Ritz values on its
    diagonal. Samples that are not ``active`` any more only get vectors of zeros. If J has more
    rows than columns, Jᵀ stands for J, so that U is always on the smaller side.

    Args:
        metric: ``(B, N, N)``.
        streams: random vectors for the starts and the probes.
        width: b, vectors in a block.

    Raises:
        ValueError: the metric has a weight and J more rows than columns, or J is not finite.
    """

    def __init__(self, metric: PullbackMetric, streams: SampleStreams, width: int = 1) -> None:
        rows, columns = metric.jacobian.shape[-2:]
        self.wide = rows <= columns
        if not self.wide and metric.weight is not None:
            raise ValueError(
                "method='golub-kahan' takes a weighted metric only if the Jacobian has no more "
                f"rows than columns, got {rows}×{columns}; use method='dual'"
            )
        self.J = metric.jacobian if self.wide else metric.jacobian.mT
        self.streams, self.dtype, self.width = streams, metric.dtype, width
        batch, rows, columns = self.J.shape
        # Relative to σ₁, the length at which a vector is rounding error.
        self.floor = rounding((rows, columns), self.dtype)
        like = torch.empty(0, dtype=torch.float64, device=metric.device)
        self.scale, self.loss = like.new_zeros(batch), like.new_zeros(batch)
        self.active = torch.ones(batch, dtype=torch.bool, device=metric.device)
        self.all_active = True
        self.steps = torch.zeros(batch, dtype=torch.long, device=metric.device)
        self.n_products = 0

        self.small = SmallSide(metric, batch, rows)
        self.H, self.C = like.new_zeros(batch, 0, 0), like.new_zeros(batch, 0, width)
        self.blocks: list[Tensor] = []
        self.next = like.new_zeros(batch, width, columns, dtype=self.dtype)
        self.probe_images = self._image(streams.normal(PROBES, columns, like=self.next).mT)
        self.weighted_images = self.small.weigh(self.probe_images)
        for _ in range(width):
            self._append_row(*self._fresh(self.active))
        self.half_step()

    def half_step(self) -> None:
        """The block F from JᵀM times the newest block of U."""
        newest = self.small.weighted[:, -self.width :]
        coupling = self.H[:, -self.width :, -self.width :] if self.blocks else None
        block = self.J._t_matmul(newest.to(self.dtype).mT).mT
        self.n_products += self.width
        if coupling is None:
            block = block.clone()  # an operator may return what it was given
        else:
            block = torch.baddbmm(block, coupling.to(self.dtype), self.next, alpha=-1)
            block = self._purified(block, coupling)
        C = torch.zeros_like(self.C)
        for row in range(self.width):
            w = block[:, row]
            for column in range(row):
                v = block[:, column]
                inner = (w * v).sum(-1, keepdim=True)
                w -= inner * v
                C[:, row - self.width, column] = inner.squeeze(-1)
            length = self._length(w.norm(dim=-1).double())
            w *= _inverse(length).to(self.dtype)
            C[:, row - self.width, row] = length
        if not self.all_active:
            active = self.active[:, None, None]
            block, C = torch.where(active, block, self.next), torch.where(active, C, self.C)
        self.next, self.C = block, C

    def _purified(self, block: Tensor, coupling: Tensor) -> Tensor:
        """The block ``(B, b, n)`` orthogonal to V.

        It is, but for rounding and for what the newest block of V, of which ``coupling`` has been
        taken out, lacks in orthogonality. That is followed here (Simon 1984, "The Lanczos algorithm
        with partial reorthogonalization"), and V is only taken out where it exceeds 32·eps, which
        happens every few steps.
        """
        eps = torch.finfo(self.dtype).eps
        length = block.norm(dim=-1).amin(-1).double()
        error = self.loss * torch.linalg.matrix_norm(coupling) + eps * self.scale
        self.loss = torch.where(self.active, error / length, 0.0).nan_to_num(posinf=1.0)
        worst = self.loss.max()
        if worst > 32 * eps:
            # Once is enough for what is small.
            for _ in range(1 if worst < eps**0.5 else 2):
                for rows in self.blocks:
                    block.baddbmm_(torch.bmm(block, rows.mT), rows, alpha=-1)
            self.loss = torch.full_like(self.loss, eps)
        return block

    def complete_step(self) -> None:
        """Take F into V, and what J F adds to the span of U into U."""
        active = self.active[:, None, None]
        self.blocks.append(self.next if self.all_active else self.next * active)
        self.H = torch.cat([self.H, self.C * active], dim=-1)
        images = self._image(self.blocks[-1].mT)
        for column in range(-self.width, 0):
            known = self.H[..., column].unsqueeze(-1)
            p = images[..., column] - (self.small.basis.mT @ known).squeeze(-1)
            p, correction = self.small.orthogonalise(p)
            # What earlier columns of this block have added to U is not in `known` yet.
            self.H[..., column] += correction
            weighted, norm = self.small.weigh_vector(p)
            length = self._length(norm)
            p, weighted = p * _inverse(length), weighted * _inverse(length)
            broken = (length == 0) & self.active
            if broken.any():
                fresh, weighted_fresh = self._fresh(broken)
                p, weighted = p + fresh, weighted + weighted_fresh
            self._append_row(p, weighted)
            self.H[:, -1, column] = length
        self.steps += self.active

    def freeze(self, finished: Tensor) -> None:
        """Stop the samples that are finished: further vectors are zero, F and C stay."""
        self.active = self.active & ~finished
        self.all_active = bool(self.active.all())

    def select(self, samples: Tensor) -> "Bidiagonalisation":
        """The factorisations of some samples (indices), to go on with or to read."""
        chosen = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(chosen, name, value[samples])
        chosen.J, chosen.all_active = self.J[samples], bool(chosen.active.all())
        chosen.blocks = [block[samples] for block in self.blocks]
        chosen.small, chosen.streams = self.small.select(samples), self.streams.select(samples)
        return chosen

    def restart(self, count: int, renewed: Tensor) -> None:
        """Keep the leading ``count`` Ritz vectors, which costs no product.

        Samples that are ``renewed`` also forget where they were heading, and go on from a random
        vector, to see what the Krylov space was blind to.
        """
        X, sigma, Y = self.svd()
        X, sigma, Y = X[..., :count], sigma[:, :count], Y[..., :count]
        # A few at a time, so that no tensor has many vectors of N entries.
        self.blocks = [combined(self.blocks, part) for part in Y.split(4, dim=-1)]
        self.small.rotate(X)
        self.H, self.C = torch.diag_embed(sigma), X.mT @ self.C
        if renewed.any():
            self._renew(renewed)

    def _renew(self, where: Tensor) -> None:
        self._append_row(*self._fresh(where))
        w = self.J._t_matmul(self.small.weighted[:, -1:].to(self.dtype).mT).squeeze(-1)
        self.n_products += 1
        length = self._length(w.norm(dim=-1).double())
        w = w * _inverse(length).to(self.dtype)
        others = ~where[:, None, None]
        self.next, self.C = self.next * others, self.C * others
        self.next[:, 0] += w
        self.C[:, -1, 0] += length

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values σ², ``(B, s)``, descending, and the residual norms of their pairs."""
        # Of HᵀH rather than of H: its small eigenvalues are rounding error, and do not matter here.
        values, Y = torch.linalg.eigh(self.H.mT @ self.H)
        residuals = (self.C.mT @ (self.H @ Y)).norm(dim=-2)
        return values.flip(-1).clamp(min=0), residuals.flip(-1)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """H = X diag(σ) Yᵀ: X ``(B, j, s)``, σ ``(B, s)``, Y ``(B, s, s)``."""
        X, sigma, Yt = torch.linalg.svd(self.H, full_matrices=False)
        return X, sigma, Yt.mT

    def vectors(self, k: int) -> tuple[Candidates, Tensor]:
        """Approximate eigenvectors: V y, with J V y = U x σ, or U x if J is tall; and all U x σ."""
        X, sigma, Y = self.svd()
        small_side = self.small.basis.mT @ (X * sigma.unsqueeze(-2))
        padding = (0, max(0, k - sigma.shape[-1]))
        pad = torch.nn.functional.pad
        if not self.wide:
            left = self.small.basis.mT @ pad(X[..., :k], padding)
            return Candidates(left.to(self.dtype)), small_side
        right = combined(self.blocks, pad(Y[..., :k], padding)).mT
        images = pad(small_side[..., :k], padding)
        coupling = self.C.mT @ pad((X * sigma.unsqueeze(-2))[..., :k], padding)
        return Candidates(right, images, self.next.mT, coupling), small_side

    def spectrum(self) -> Spectrum:
        """Ritz values of JJᵀM on the span of U, and the trace outside of it, from the probes.

        U has a block more than V: these Ritz values are ahead of those of :meth:`ritz`.
        """
        B = torch.cat([self.H, self.C], dim=-1)
        values = torch.linalg.eigvalsh(torch.bmm(B, B.mT)).flip(-1).clamp(min=0)
        U, MU = self.small.basis, self.small.weighted
        inside = torch.bmm(MU, self.probe_images)
        left_out = torch.baddbmm(self.probe_images, U.mT, inside, alpha=-1)
        weighted = torch.baddbmm(self.weighted_images, MU.mT, inside, alpha=-1)
        resolved = (self.width * (self.steps + 1)).clamp(max=values.shape[-1])
        unresolved = (min(self.J.shape[-2:]) - resolved).clamp(min=0)
        return Spectrum.probed(values, torch.bmm(left_out.mT, weighted), unresolved.double())

    def _image(self, columns: Tensor) -> Tensor:
        image = self.J._matmul(columns)
        require_finite(image, "the map's derivative is NaN or infinite")
        self.n_products += columns.shape[-1]
        return image.double()

    def _length(self, norm: Tensor) -> Tensor:
        """The norm, or 0 where it is rounding error."""
        self.scale = torch.maximum(self.scale, norm)
        return torch.where(norm > self.floor * self.scale, norm, 0.0) * self.active

    def _append_row(self, u: Tensor, weighted: Tensor) -> None:
        self.small.append(u, weighted)
        self.H = torch.nn.functional.pad(self.H, (0, 0, 0, 1))
        self.C = torch.nn.functional.pad(self.C, (0, 0, 0, 1))

    def _fresh(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Random unit vectors of J's range orthogonal to all u, and M times them.

        For the samples ``where``; 0 for the others, and where the u span the range already.
        """
        image = self._image(self.streams.normal(self.J.shape[-1], 1, like=self.next, where=where))
        image = image.squeeze(-1)
        p, _ = self.small.orthogonalise(image)
        weighted, norm = self.small.weigh_vector(p)
        length = torch.where(norm > self.floor * self.small.weigh_vector(image)[1], norm, 0.0)
        return p * _inverse(length), weighted * _inverse(length)


class SmallSide:
    """An orthonormal basis in the weight's inner product, in float64, one vector a row."""

    def __init__(self, metric: PullbackMetric, batch: int, size: int) -> None:
        self.weight, self.dtype = metric.weight, metric.dtype
        self.basis = torch.empty(batch, 0, size, dtype=torch.float64, device=metric.device)
        self.weighted = self.basis

    def select(self, samples: Tensor) -> "SmallSide":
        """The bases of some samples (indices)."""
        chosen = copy.copy(self)
        chosen.weight = None if self.weight is None else self.weight[samples]
        chosen.basis = self.basis[samples]
        chosen.weighted = chosen.basis if self.weight is None else self.weighted[samples]
        return chosen

    def weigh(self, columns: Tensor) -> Tensor:
        """M times columns ``(B, M, C)``."""
        if self.weight is None:
            return columns
        return (self.weight @ columns.to(self.dtype)).double()

    def weigh_vector(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """M p for p ``(B, M)``, and √(pᵀMp)."""
        weighted = self.weigh(p.unsqueeze(-1)).squeeze(-1)
        return weighted, (p * weighted).sum(-1).clamp(min=0).sqrt()

    def orthogonalise(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Take the basis out of p ``(B, M)``; twice is enough (Parlett 1980, §6.9).

        Returns:
            what is left, and the coefficients ``(B, j)`` of what was taken.
        """
        column = p.unsqueeze(-1)
        first = torch.bmm(self.weighted, column)
        column = torch.baddbmm(column, self.basis.mT, first, alpha=-1)
        second = torch.bmm(self.weighted, column)
        column = torch.baddbmm(column, self.basis.mT, second, alpha=-1)
        return column.squeeze(-1), (first + second).squeeze(-1)

    def append(self, u: Tensor, weighted: Tensor) -> None:
        """Add a vector and M times it."""
        self.basis = torch.cat([self.basis, u.unsqueeze(1)], dim=1)
        if self.weight is None:
            self.weighted = self.basis
        else:
            self.weighted = torch.cat([self.weighted, weighted.unsqueeze(1)], dim=1)

    def rotate(self, X: Tensor) -> None:
        """Replace the basis by combinations of it, for orthonormal X ``(B, j, l)``."""
        same = self.weight is None
        self.basis = X.mT @ self.basis
        self.weighted = self.basis if same else X.mT @ self.weighted


def _inverse(length: Tensor) -> Tensor:
    """1/length ``(B, 1)``, or 0 where the length is 0."""
    return length.reciprocal().masked_fill_(length == 0, 0.0).unsqueeze(-1)

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
from .convergence import rounding
from .dense import combine_rows, eigh, eigvalsh, first_columns, reciprocal, svd
from .records import PROBES, Candidates, Spectrum
from .small_side import DERIVATIVE, WeightedBasis, weigh, wide_jacobian

# What is left of the length of a row of a block under which its direction has lost digits.
CANCELLED = 0.1


class Bidiagonalisation:
    """A batch of factorisations J V = U H, JᵀM U = V Hᵀ + F Cᵀ, of which each grows by blocks.

    U is orthonormal in the inner product of the weight M; V and the next block F are orthonormal.
    H is lower bidiagonal (by blocks) until a restart puts Ritz values on its diagonal. If J has
    more rows than columns, Jᵀ stands for J, so that U is always on the smaller side.

    Args:
        metric: ``(B, N, N)``.
        streams: random vectors for the starts and the probes.
        width: b, vectors in a block.

    Attributes:
        left: U, the rows of ``left.vectors`` ``(B, j, m)``, float64.
        blocks: V, as blocks of rows ``(B, b, n)`` in the metric's dtype.
        next_block: F, ``(B, b, n)``.
        H, coupling: H ``(B, j, s)`` and C ``(B, j, b)``, float64.
        active: ``(B,)`` bool; the samples that are not get no vectors but zeros any more.
        steps: ``(B,)``.
        n_products: products with J or Jᵀ, columns counted.

    Raises:
        ValueError: the metric has a weight and J more rows than columns, or J is not finite.
    """

    def __init__(self, metric: PullbackMetric, streams: SampleStreams, width: int = 1) -> None:
        self.J = wide_jacobian(metric, "golub-kahan")
        self.wide = self.J is metric.jacobian
        self.streams, self.dtype, self.width = streams, metric.dtype, width
        batch, rows, columns = self.J.shape
        # Relative to σ₁, the length at which a vector is rounding error.
        self.rounding = rounding((rows, columns), self.dtype)
        like = torch.empty(0, dtype=torch.float64, device=metric.device)
        # The longest vector so far, and how far V is from orthogonal.
        self.scale, self.lost_orthogonality = like.new_zeros(batch), like.new_zeros(batch)
        self.active = torch.ones(batch, dtype=torch.bool, device=metric.device)
        self.all_active = True
        self.steps = torch.zeros(batch, dtype=torch.long, device=metric.device)
        self.n_products = 0

        self.left = WeightedBasis(metric, rows)
        self.blocks: list[Tensor] = []
        self.next_block = like.new_zeros(batch, width, columns, dtype=self.dtype)
        self.H, self.coupling = like.new_zeros(batch, 0, 0), like.new_zeros(batch, 0, width)
        probes = streams.normal(PROBES, columns, like=self.next_block).mT
        self.probe_images = self._image(probes)
        self.weighted_images = weigh(metric, self.probe_images)
        for _ in range(width):
            self._append_left(*self._random_left(self.active))
        self._expand_right()

    def expand(self) -> None:
        """Add a block to V and to U: one product with J and one with Jᵀ for each of its vectors."""
        # V ← [V F]
        active = self.active[:, None, None]
        self.blocks.append(self.next_block if self.all_active else self.next_block * active)
        self.H = torch.cat([self.H, self.coupling * active], dim=-1)
        # U ← [U P], with P R = J F − U C and H ← [H C; 0 R]
        self._expand_left()
        # F Cᵀ ← JᵀM U − V Hᵀ, of which only the last block is not 0
        self._expand_right()
        self.steps += self.active

    def _expand_left(self) -> None:
        images = self._image(self.blocks[-1].mT)
        for column in range(-self.width, 0):
            # p = J f − U c, and what rounding has left in it of U
            known = self.H[..., column].unsqueeze(-1)
            p = images[..., column] - (self.left.vectors.mT @ known).squeeze(-1)
            p, correction = self.left.orthogonalise(p)
            # What earlier columns of this block have added to U is not in `known` yet.
            self.H[..., column] += correction
            # p ← p/‖p‖_M, or a random vector where the Krylov space is invariant
            weighted, norm = self.left.weigh(p)
            length = self._length(norm)
            inverse = reciprocal(length).unsqueeze(-1)
            p, weighted = p * inverse, weighted * inverse
            broken = (length == 0) & self.active
            if broken.any():
                fresh, weighted_fresh = self._random_left(broken)
                p, weighted = p + fresh, weighted + weighted_fresh
            self._append_left(p, weighted)
            self.H[:, -1, column] = length

    def _expand_right(self) -> None:
        # W = JᵀM P − F Rᵀ, P the newest block of U and F that of V
        newest = self.left.weighted[:, -self.width :]
        block = self.J._t_matmul(newest.to(self.dtype).mT).mT
        self.n_products += self.width
        if self.blocks:
            R = self.H[:, -self.width :, -self.width :]
            block = torch.baddbmm(block, R.to(self.dtype), self.next_block, alpha=-1)
            block = self._purify(block, R)
        else:
            block = block.clone()  # an operator may return what it was given
        # F Cᵀ = W, by Gram–Schmidt
        sizes = block.norm(dim=-1).double() if self.width > 1 else None
        L = self._orthonormalise_rows(block)
        if sizes is not None:
            L = self._restore(block, L, sizes)
        C = torch.cat([torch.zeros_like(self.coupling[:, : -self.width]), L], dim=1)
        if not self.all_active:
            active = self.active[:, None, None]
            block = torch.where(active, block, self.next_block)
            C = torch.where(active, C, self.coupling)
        self.next_block, self.coupling = block, C

    def _orthonormalise_rows(self, block: Tensor, sizes: Tensor | None = None) -> Tensor:
        """L ``(B, b, b)`` with block = L F; F ``(B, b, n)`` takes the block's place.

        Rows are 0 where their length, times ``sizes`` ``(B, b)`` if given, is rounding error.
        """
        L = self.coupling.new_zeros(len(block), self.width, self.width)
        for row in range(self.width):
            w = block[:, row]
            # Twice, as the first round may cancel most of it.
            for column in [*range(row), *range(row)]:
                v = block[:, column]
                inner = (w * v).sum(-1, keepdim=True)
                w -= inner * v
                L[:, row, column] += inner.squeeze(-1)
            length = w.norm(dim=-1).double()
            whole = self._length(length if sizes is None else length * sizes[:, row])
            length = whole if sizes is None else torch.where(whole > 0, length, 0.0)
            w *= reciprocal(length).unsqueeze(-1).to(self.dtype)
            L[:, row, row] = length
        return L

    def _restore(self, block: Tensor, L: Tensor, sizes: Tensor) -> Tensor:
        """L, after the rows F of the block have been made orthogonal to V again, where they lie.

        Of rows next to dependent, of lengths ``sizes``, little more may be left than what rounding
        has left of V in them; twice is enough, once more where only noise was.
        """
        lengths = L.diagonal(dim1=-2, dim2=-1)
        left = torch.where(lengths > 0, lengths / sizes, 1.0)
        for _ in range(3):
            if not (left < CANCELLED).any():
                break
            self._take_out(block, 2)
            again = self._orthonormalise_rows(block, lengths)
            L, left = L @ again, again.diagonal(dim1=-2, dim2=-1)
            lengths, left = lengths * left, torch.where(left > 0, left, 1.0)
        return L

    def _purify(self, block: Tensor, R: Tensor) -> Tensor:
        """The block ``(B, b, n)`` orthogonal to V.

        It is, but for rounding and for what the newest block of V, of which R has been taken out,
        lacks in orthogonality. That is followed here (Simon 1984, "The Lanczos algorithm with
        partial reorthogonalization"), and V is only taken out where it exceeds 32·eps, which
        happens every few steps. In wider blocks, whose rows may be next to dependent, it always is.
        """
        eps = torch.finfo(self.dtype).eps
        length = block.norm(dim=-1).amin(-1).double()
        error = self.lost_orthogonality * torch.linalg.matrix_norm(R) + eps * self.scale
        lost = torch.where(self.active, error / length, 0.0).nan_to_num(posinf=1.0)
        worst = lost.max()
        if worst > 32 * eps or self.width > 1:
            # Once is enough for what is small.
            self._take_out(block, 1 if worst < eps**0.5 else 2)
            lost = torch.full_like(lost, eps)
        self.lost_orthogonality = lost
        return block

    def _take_out(self, block: Tensor, rounds: int) -> None:
        """Make the block ``(B, b, n)`` orthogonal to V, where it lies."""
        for _ in range(rounds):
            for rows in self.blocks:
                block.baddbmm_(torch.bmm(block, rows.mT), rows, alpha=-1)

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
        chosen.left, chosen.streams = self.left.select(samples), self.streams.select(samples)
        return chosen

    def restart(self, count: int, renewed: Tensor) -> None:
        """Keep the leading ``count`` Ritz vectors, which costs no product.

        Samples that are ``renewed`` also forget where they were heading, and go on from a random
        vector, to see what the Krylov space was blind to.
        """
        X, sigma, Y = self.svd()
        X, sigma, Y = X[..., :count], sigma[:, :count], Y[..., :count]
        # A few at a time, so that no tensor has many vectors of N entries.
        self.blocks = [combine_rows(self.blocks, part) for part in Y.split(4, dim=-1)]
        self.left.rotate(X)
        self.H, self.coupling = torch.diag_embed(sigma), X.mT @ self.coupling
        if renewed.any():
            self._renew(renewed)

    def _renew(self, where: Tensor) -> None:
        self._append_left(*self._random_left(where))
        w = self.J._t_matmul(self.left.weighted[:, -1:].to(self.dtype).mT).squeeze(-1)
        self.n_products += 1
        length = self._length(w.norm(dim=-1).double())
        others = ~where[:, None, None]
        self.next_block, self.coupling = self.next_block * others, self.coupling * others
        self.next_block[:, 0] += w * reciprocal(length).unsqueeze(-1).to(self.dtype)
        self.coupling[:, -1, 0] += length

    def ritz_values(self) -> tuple[Tensor, Tensor]:
        """Ritz values σ², ``(B, s)``, descending, and the residual norms of their pairs."""
        # Of HᵀH rather than of H: its small eigenvalues are rounding error, and do not matter here.
        values, Y = eigh(self.H.mT @ self.H)
        residuals = (self.coupling.mT @ (self.H @ Y)).norm(dim=-2)
        return values.flip(-1).clamp(min=0), residuals.flip(-1)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """H = X diag(σ) Yᵀ: X ``(B, j, s)``, σ ``(B, s)``, Y ``(B, s, s)``."""
        X, sigma, Yt = svd(self.H)
        return X, sigma, Yt.mT

    def candidates(self, k: int) -> tuple[Candidates, Tensor]:
        """k approximate eigenvectors, and all left singular vectors as long as their values.

        The former are V y, with J V y = U x σ, or U x if J is tall; the latter U x σ.
        """
        X, sigma, Y = self.svd()
        scaled = X * sigma.unsqueeze(-2)
        small_side = self.left.vectors.mT @ scaled
        if not self.wide:
            left = self.left.vectors.mT @ first_columns(X, k)
            return Candidates(left.to(self.dtype)), small_side
        right = combine_rows(self.blocks, first_columns(Y, k)).mT
        images, coupling = first_columns(small_side, k), self.coupling.mT @ first_columns(scaled, k)
        return Candidates(right, images, self.next_block.mT, coupling), small_side

    def spectrum(self, small: bool = False) -> Spectrum:
        """Ritz values of JJᵀM on the span of U, and the trace outside of it, from the probes.

        U has a block more than V: these Ritz values are ahead of those of :meth:`ritz_values`.
        Those that are ``small`` are rounded like the largest, unless they are asked for.
        """
        B = torch.cat([self.H, self.coupling], dim=-1)
        if small:
            values = torch.nn.functional.pad(
                svd(B)[1].square(), (0, max(0, B.shape[-2] - B.shape[-1]))
            )
        else:
            values = eigvalsh(torch.bmm(B, B.mT)).flip(-1).clamp(min=0)
        U, MU = self.left.vectors, self.left.weighted
        inside = torch.bmm(MU, self.probe_images)
        left_out = torch.baddbmm(self.probe_images, U.mT, inside, alpha=-1)
        weighted = torch.baddbmm(self.weighted_images, MU.mT, inside, alpha=-1)
        resolved = (self.width * (self.steps + 1)).clamp(max=values.shape[-1])
        most_parts = (min(self.J.shape[-2:]) - resolved).clamp(min=0)
        return Spectrum.from_probes(values, torch.bmm(left_out.mT, weighted), most_parts.double())

    def _image(self, columns: Tensor) -> Tensor:
        image = self.J._matmul(columns)
        require_finite(image, DERIVATIVE)
        self.n_products += columns.shape[-1]
        return image.double()

    def _length(self, norm: Tensor) -> Tensor:
        """The norm, or 0 where it is rounding error."""
        self.scale = torch.maximum(self.scale, norm)
        return torch.where(norm > self.rounding * self.scale, norm, 0.0) * self.active

    def _append_left(self, u: Tensor, weighted: Tensor) -> None:
        self.left.append(u, weighted)
        self.H = torch.nn.functional.pad(self.H, (0, 0, 0, 1))
        self.coupling = torch.nn.functional.pad(self.coupling, (0, 0, 0, 1))

    def _random_left(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Random unit vectors of J's range orthogonal to all u, and M times them.

        For the samples ``where``; 0 for the others, and where the u span the range already.
        """
        drawn = self.streams.normal(self.J.shape[-1], 1, like=self.next_block, where=where)
        image = self._image(drawn).squeeze(-1)
        p, _ = self.left.orthogonalise(image)
        weighted, norm = self.left.weigh(p)
        length = torch.where(norm > self.rounding * self.left.weigh(image)[1], norm, 0.0)
        inverse = reciprocal(length).unsqueeze(-1)
        return p * inverse, weighted * inverse

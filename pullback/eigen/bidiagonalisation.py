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
from .bases import CHUNK, Lengths, RowChunks, WeightedBasis, orthonormalise_rows
from .convergence import rounding
from .dense import eigh, eigvalsh, first_columns, svd
from .records import PROBES, Candidates, Spectrum
from .remainder import ProbedRemainder
from .small_side import DERIVATIVE, weigh, wide_jacobian


class Bidiagonalisation:
    """A batch of factorisations J V = U H, JᵀM U = V Hᵀ + F Cᵀ, of which each grows by blocks.

    U is orthonormal in the inner product of the weight M; V and the next block F are orthonormal.
    H is lower bidiagonal (by blocks) until a restart puts Ritz values on its diagonal. If J has
    more rows than columns, Jᵀ stands for J, so that U is always on the smaller side.

    A step waits for the device once, unless lengths are trusted. What is small is diagonalised on
    the host.

    Args:
        metric: ``(B, N, N)``.
        streams: random vectors for the starts and the probes.
        width: b, vectors in a block.

    Attributes:
        left: U, the rows of ``left.vectors`` ``(B, j, m)``, float64.
        blocks: V, blocks of rows ``(B, b, n)`` in the metric's dtype.
        next_block: F, ``(B, b, n)``.
        active: ``(B,)`` bool, on the host; samples that are not get no vectors but zeros any more.
        steps: ``(B,)``, on the host.
        is_exact: whether J V = U H but for rounding. It is not where a vector was dropped that has
            a length, but none that rounding would leave of it in the inner product of the weight.
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
        self.lengths = Lengths(like.new_zeros(batch, 1), self.rounding)
        self.active, self.all_active = torch.ones(batch, dtype=torch.bool, device="cpu"), True
        self.mask = torch.ones_like(self.active, device=metric.device)
        self.steps = torch.zeros(batch, dtype=torch.long, device="cpu")
        self.n_products, self.is_exact = 0, True

        self.left, self.blocks = WeightedBasis(metric, rows), RowChunks(width)
        self.next_block = like.new_zeros(batch, width, columns, dtype=self.dtype)
        # [H C], and zeros where they will grow.
        self._matrix = like.new_zeros(batch, 16, 16 + width)
        self._on_host: tuple[Tensor, Tensor, Tensor] | None = None
        images = self._image(streams.normal(PROBES, columns, like=self.next_block).mT)
        require_finite(images, DERIVATIVE)
        self.remainder = ProbedRemainder(images, weigh(metric, images))
        for _ in range(width):
            self._append_random(self.mask)
        self._expand_right()

    @property
    def H(self) -> Tensor:
        """``(B, j, s)``, float64."""
        return self._matrix[:, : self.left.size, : self.blocks.count]

    @property
    def coupling(self) -> Tensor:
        """C, ``(B, j, b)``, float64."""
        size = self.blocks.count
        return self._matrix[:, : self.left.size, size : size + self.width]

    def expand(self) -> None:
        """Add a block to V and to U: one product with J and one with Jᵀ for each of its vectors."""
        self._claim_memory()
        # V ← [V F], and C becomes the last columns of H
        held = None
        if self.all_active:
            newest = self.blocks.append(self.next_block)
        else:
            held, active = self.coupling.clone(), self.mask[:, None, None]
            self.coupling.mul_(active)
            newest = self.blocks.append(self.next_block * active)
        # U ← [U P], with P R = J F − U C and H ← [H C; 0 R]
        self._expand_left(newest)
        # F Cᵀ ← JᵀM U − V Hᵀ, of which only the last block is not 0
        self._expand_right(held)
        self.steps = self.steps + self.active
        self._on_host = None

    def _expand_left(self, newest: Tensor) -> None:
        images = self._image(newest.mT)
        first = self.blocks.count - self.width
        for column in range(self.width):
            # p = J f − U c, and what rounding has left in it of U
            known = self._matrix[:, : self.left.size, first + column].unsqueeze(-1)
            image = images[..., column].unsqueeze(-1)
            p = image.baddbmm_(self.left.vectors.mT, known, alpha=-1)
            # What earlier columns of this block have added to U is not in `known` yet; and a
            # vector may be long beside its length in the inner product of a singular weight.
            little = column == 0 and self.left.weight is None
            known += self.left.take_out_of(p, rounds=1 if little else 2)
            # p ← p/‖p‖_M, or a random vector where the Krylov space is invariant
            p = p.squeeze(-1)
            weighted, norm = self.left.weigh(p)
            length, inverse = self.lengths.invert(norm.unsqueeze(-1))
            if self._is_in_trouble(length):
                require_finite(norm, DERIVATIVE)
                broken = (length == 0).squeeze(-1) & self.mask
                self.is_exact &= self.left.weight is None
                self._append_random(broken, p * inverse, weighted * inverse)
            else:
                self._append_left(p, weighted, inverse)
            self._matrix[:, self.left.size - 1, first + column, None] = length

    def _is_in_trouble(self, length: Tensor) -> bool:
        """Whether an active sample's vector vanishes, or is not finite: what a step waits for."""
        if not self.lengths.are_checked:
            return False
        fine = length.squeeze(-1) > 0
        return not bool((fine if self.all_active else fine | ~self.mask).all())

    def _expand_right(self, held: Tensor | None = None) -> None:
        # W = JᵀM P − F Rᵀ, P the newest block of U and F that of V
        newest = self.left.weighted[:, -self.width :]
        block = self.J._t_matmul(newest.to(self.dtype).mT).mT
        self.n_products += self.width
        if self.blocks.count:
            R = self.H[:, -self.width :, -self.width :]
            block = torch.baddbmm(block, R.to(self.dtype), self.next_block, alpha=-1)
            # Rounding has left a little of V. In wider blocks, rows may be next to dependent.
            for _ in range(1 if self.width == 1 else 2):
                self.blocks.take_out_of(block)
        else:
            block = block.clone()  # an operator may return what it was given
        # F Cᵀ = W, by Gram–Schmidt
        L = orthonormalise_rows(block, self.blocks, self.lengths)
        coupling = self.coupling
        coupling[:, -self.width :] = L
        if held is None:
            self.next_block = block
        else:
            self.next_block = torch.where(self.mask[:, None, None], block, self.next_block)
            coupling[:, : -self.width] += held * ~self.mask[:, None, None]

    def freeze(self, finished: Tensor) -> None:
        """Stop the samples that are finished: further vectors are zero, F and C stay."""
        self.active = self.active & ~finished
        self.all_active = bool(self.active.all())
        self.mask = self._upload(self.active)

    def select(self, samples: Tensor, to_go_on: bool = True) -> "Bidiagonalisation":
        """The factorisations of some samples (indices on the host), to go on with or to read."""
        chosen, there = copy.copy(self), self._upload(samples)
        chosen.active, chosen.steps = self.active[samples], self.steps[samples]
        chosen.all_active = bool(chosen.active.all())
        for name in ("mask", "next_block", "_matrix"):
            setattr(chosen, name, getattr(self, name)[there])
        for name in ("blocks", "left", "lengths", "remainder"):
            setattr(chosen, name, getattr(self, name).select(there))
        if self._on_host is not None:
            H, C, products = self._on_host
            chosen._on_host = H[samples], C[samples], products[samples]
        if to_go_on:
            chosen.J, chosen.streams = self.J[samples], self.streams.select(samples)
        return chosen

    def restart(self, count: int, renewed: Tensor) -> None:
        """Keep the leading ``count`` Ritz vectors, which costs no product.

        Samples that are ``renewed`` (``(B,)`` bool, on the host) also forget where they were
        heading, and go on from a random vector, to see what the Krylov space was blind to.
        """
        X, sigma, Y = (self._upload(part[..., :count]) for part in self.svd())
        coupling = X.mT @ self.coupling
        blocks = RowChunks(self.width)
        for part in Y.split(CHUNK, dim=-1):
            blocks.append(self.blocks.combine(part))
        self.blocks = blocks
        self.left.rotate(X)
        self._matrix.zero_()
        self.H.diagonal(dim1=-2, dim2=-1).copy_(sigma)
        self.coupling.copy_(coupling)
        self.remainder.start_anew(self.left)
        if renewed.any():
            self._renew(self._upload(renewed), Lengths(sigma[:, :1], self.rounding))
        self._on_host = None

    def _renew(self, where: Tensor, lengths: Lengths) -> None:
        self._append_random(where)
        w = self.J._t_matmul(self.left.weighted[:, -1:].to(self.dtype).mT).squeeze(-1)
        self.n_products += 1
        length, inverse = lengths.invert(w.norm(dim=-1, keepdim=True))
        others = ~where[:, None, None]
        self.next_block = self.next_block * others
        self.next_block[:, 0] += w * inverse.to(self.dtype)
        self.coupling.mul_(others)
        self.coupling[:, -1] += length

    def ritz_values(self) -> tuple[Tensor, Tensor]:
        """Ritz values σ², ``(B, s)``, descending, and the residual norms of their pairs."""
        H, C, _ = self.on_host()
        # Of HᵀH rather than of H: its small eigenvalues are rounding error, and do not matter here.
        values, Y = eigh(H.mT @ H)
        residuals = (C.mT @ (H @ Y)).norm(dim=-2)
        return values.flip(-1).clamp(min=0), residuals.flip(-1)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """H = X diag(σ) Yᵀ, on the host: X ``(B, j, s)``, σ ``(B, s)``, Y ``(B, s, s)``."""
        X, sigma, Yt = svd(self.on_host()[0])
        return X, sigma, Yt.mT

    def candidates(self, k: int) -> tuple[Candidates, Tensor]:
        """k approximate eigenvectors, and all left singular vectors as long as their values.

        The former are V y, with J V y = U x σ, or U x if J is tall; the latter U x σ.
        """
        X, sigma, Y = self.svd()
        scaled = self._upload(X * sigma.unsqueeze(-2))
        small_side = self.left.vectors.mT @ scaled
        if not self.wide:
            left = self.left.vectors.mT @ self._upload(first_columns(X, k))
            return Candidates(left.to(self.dtype)), small_side
        right = self.blocks.combine(self._upload(first_columns(Y, k))).mT
        if not self.is_exact:
            return Candidates(right), small_side
        images, coupling = first_columns(small_side, k), self.coupling.mT @ first_columns(scaled, k)
        return Candidates(right, images, self.next_block.mT, coupling), small_side

    def spectrum(self, small: bool = False) -> Spectrum:
        """Ritz values of JJᵀM on the span of U, and the trace outside of it, from the probes.

        U has a block more than V: these Ritz values are ahead of those of :meth:`ritz_values`.
        Those that are ``small`` are rounded like the largest, unless they are asked for.
        """
        H, C, products = self.on_host()
        B = torch.cat([H, C], dim=-1)
        if small:
            values = torch.nn.functional.pad(
                svd(B)[1].square(), (0, max(0, B.shape[-2] - B.shape[-1]))
            )
        else:
            values = eigvalsh(torch.bmm(B, B.mT)).flip(-1).clamp(min=0)
        resolved = (self.width * (self.steps + 1)).clamp(max=values.shape[-1])
        most_parts = (min(self.J.shape[-2:]) - resolved).clamp(min=0)
        return Spectrum.from_probes(values, products, most_parts.double())

    def on_host(self) -> tuple[Tensor, Tensor, Tensor]:
        """H, C and zᵀG'z of the probes z, G' what U has left of G, copied to the host at once."""
        if self._on_host is None:
            parts = [self.H, self.coupling, self.remainder.products()]
            flat = torch.cat([part.flatten(1) for part in parts], dim=1).cpu()
            sizes = [part[0].numel() for part in parts]
            pieces = zip(flat.split(sizes, dim=1), parts, strict=True)
            H, C, products = (piece.unflatten(1, part.shape[1:]) for piece, part in pieces)
            self._on_host = H, C, products
        return self._on_host

    def _upload(self, tensor: Tensor) -> Tensor:
        """A copy on the device, which the host does not wait for."""
        return tensor.to(self.mask.device, non_blocking=True)

    def _image(self, columns: Tensor) -> Tensor:
        """J times columns, in float64; its memory is the caller's own."""
        self.n_products += columns.shape[-1]
        return self.J._matmul(columns).to(torch.float64, copy=True)

    def _claim_memory(self) -> None:
        rows, columns = self.left.size + self.width + 1, self.blocks.count + 2 * self.width
        if rows > self._matrix.shape[1] or columns > self._matrix.shape[2]:
            self._matrix = torch.nn.functional.pad(self._matrix, (0, columns, 0, rows))

    def _append_left(self, p: Tensor, weighted: Tensor, factor: Tensor) -> None:
        self.left.append(p, weighted, factor)
        self.remainder.take_out(self.left.vectors[:, -1], self.left.weighted[:, -1])

    def _append_random(
        self, where: Tensor, others: Tensor | float = 0.0, weighted_others: Tensor | float = 0.0
    ) -> None:
        """Add to U random unit vectors of J's range orthogonal to all u, for the samples ``where``.

        They are 0 where the u span the range already. Other samples get vectors of their own.
        """
        drawn = self.streams.normal(self.J.shape[-1], 1, like=self.next_block, where=where)
        image = self._image(drawn)
        require_finite(image, DERIVATIVE)
        p = image.squeeze(-1).clone()
        self.left.take_out_of(p.unsqueeze(-1))
        weighted, norm = self.left.weigh(p)
        whole = self.left.weigh(image.squeeze(-1))[1]
        valid = norm > self.rounding * whole
        inverse = torch.where(valid, norm.reciprocal(), 0.0).unsqueeze(-1)
        one = torch.ones_like(inverse)
        self._append_left(p * inverse + others, weighted * inverse + weighted_others, one)

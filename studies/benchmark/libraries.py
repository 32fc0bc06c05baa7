"""Other libraries of matrix-free linear algebra, given the same map: PRIMME, CoLA, skerch, matfree.

Each is measured if it is installed, and takes its own products, as a user of it would write them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.vae import VAE

from .peers import STEPS, TOL, Found, Function, ImageProducts

SKETCH = 24  # columns of skerch's sketch, as many as the others have Krylov vectors


def by_primme(function: Function, x: Tensor, k: int) -> Found:
    """PRIMME's svds of J, image by image (Wu, Romero & Stathopoulos 2017).

    Raises:
        ImportError: it is not installed.
    """
    import primme

    def find(J: ImageProducts) -> Tensor:
        singular = primme.svds(J.scipy(of_metric=False), k, tol=TOL, return_singular_vectors=False)
        return torch.from_numpy(np.array(singular)).square()

    return _image_by_image(find, function, x, k)


def by_cola(function: Function, x: Tensor, k: int) -> Found:
    """Lanczos of CoLA on G, image by image (Potapczynski et al. 2023).

    Raises:
        ImportError: it is not installed.
    """
    import cola

    def find(J: ImageProducts) -> Tensor:
        def multiply(V: Tensor) -> Tensor:
            return torch.stack([J.metric(v) for v in V.mT], dim=-1)

        size = J.shape[1]
        G = cola.SelfAdjoint(cola.ops.LinearOperator(x.dtype, (size, size), matmat=multiply))
        algorithm = cola.linalg.Lanczos(max_iters=STEPS, tol=TOL, key=0)
        values, _ = cola.linalg.eig(G, k, which="LM", alg=algorithm)
        return values.real

    return _image_by_image(find, function, x, k)


def by_skerch(function: Function, x: Tensor, k: int) -> Found:
    """The sketched SVD of J of skerch, image by image (after Halko, Martinsson & Tropp 2011).

    Raises:
        ImportError: it is not installed.
    """
    from skerch.algorithms import ssvd

    def find(J: ImageProducts) -> Tensor:
        _, singular, _ = ssvd(_Matrix(J), "cpu", x.dtype, min(SKETCH, *J.shape))
        return singular.square()

    return _image_by_image(find, function, x, k)


class _Matrix:
    """J as skerch takes it: ``J @ V`` and ``U @ J``."""

    def __init__(self, products: ImageProducts) -> None:
        self.products, self.shape = products, products.shape

    def __matmul__(self, V: Tensor) -> Tensor:
        if V.ndim == 1:
            return self.products.jvp(V)
        return torch.stack([self.products.jvp(v) for v in V.mT], dim=-1)

    def __rmatmul__(self, U: Tensor) -> Tensor:
        if U.ndim == 1:
            return self.products.vjp(U)
        return torch.stack([self.products.vjp(u) for u in U])


def _image_by_image(
    find: Callable[[ImageProducts], Tensor], function: Function, x: Tensor, k: int
) -> Found:
    values, products = [], 0
    for image in x:
        J = ImageProducts(function, image)
        values.append(find(J).detach().sort(descending=True).values[:k])
        products += J.count
    return Found(values=torch.stack(values), products=products / len(x))


class ByMatfree:
    """Bidiagonalisation of matfree in JAX, compiled, for all images together (Krämer et al. 2024).

    The encoder is written anew in JAX, with the same weights. The first call compiles.
    """

    def __init__(self, vae: VAE) -> None:
        self._vae = vae
        self._compiled: Callable[[Any], Any] | None = None

    def __call__(self, function: Function, x: Tensor, k: int) -> Found:  # noqa: ARG002
        """The k leading eigenvalues.

        Raises:
            ImportError: JAX or matfree is not installed.
        """
        import jax

        if self._compiled is None:
            self._compiled = jax.jit(jax.vmap(_matfree_values(self._vae, x.shape[1:], k)))
        values = np.asarray(self._compiled(x.numpy()))
        return Found(values=torch.from_numpy(values.copy()), products=2 * STEPS)


def _matfree_values(vae: VAE, event: torch.Size, k: int) -> Callable[[Any], Any]:
    """x ↦ the k leading eigenvalues of G, in JAX."""
    import jax
    from matfree import decomp, eig

    encode, size = _in_jax(vae), math.prod(event)
    find = eig.svd_partial(decomp.bidiag(min(STEPS, size, 2 * vae.config["latent"])))
    start = jax.random.normal(jax.random.PRNGKey(0), (size,))

    def values(x: Any) -> Any:
        _, multiply = jax.linearize(lambda flat: encode(flat.reshape(event)), x.reshape(-1))
        return find(multiply, start)[1][:k] ** 2

    return values


def _in_jax(vae: VAE) -> Callable[[Any], Any]:
    """F = [μ; σ] of one image."""
    from jax import numpy as jnp

    features = [_layer_in_jax(layer) for layer in vae.features.children()]
    mean, logvar = _layer_in_jax(vae.mean), _layer_in_jax(vae.logvar)

    def encode(x: Any) -> Any:
        x = x[None]
        for layer in features:
            x = layer(x)
        return jnp.concatenate([mean(x)[0], jnp.exp(logvar(x)[0] / 2)])

    return encode


def _layer_in_jax(layer: nn.Module) -> Callable[[Any], Any]:
    from jax import lax
    from jax import numpy as jnp

    weights = {name: jnp.asarray(t.detach().numpy()) for name, t in layer.state_dict().items()}
    if isinstance(layer, nn.Linear):
        return lambda x: x @ weights["weight"].T + weights["bias"]
    if isinstance(layer, nn.Tanh):
        return jnp.tanh
    if isinstance(layer, nn.Flatten):
        return lambda x: x.reshape(len(x), -1)
    if isinstance(layer, nn.Conv2d):
        pads = [(p, p) for p in layer.padding]
        return lambda x: (
            lax.conv_general_dilated(x, weights["weight"], layer.stride, pads)
            + weights["bias"][:, None, None]
        )
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        scale = weights["weight"] / jnp.sqrt(weights["running_var"] + layer.eps)
        shift = weights["bias"] - scale * weights["running_mean"]
        shape = (-1, 1, 1) if isinstance(layer, nn.BatchNorm2d) else (-1,)
        return lambda x: x * scale.reshape(shape) + shift.reshape(shape)
    raise TypeError(f"no such layer in JAX here: {type(layer).__name__}")

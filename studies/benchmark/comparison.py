"""Our methods and the others, measured on the same images: cost beside accuracy."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb
from models.vae import VAE

from . import libraries, peers
from .peers import Found, Function
from .timing import Timed, clock, timed

K = 5
EXACT = 4  # batches whose exact spectra the errors are measured against
FEW = 4  # images of a batch that slow methods are measured on
DENSE_SECONDS = 30.0


@dataclass(frozen=True)
class Method:
    """Something to measure.

    Attributes:
        name: in table and plot.
        job: images ``(B, *event)`` → what it found; raises ImportError if not installed.
        batches, images: on how many batches it is measured at most, and on how many images of
            each; the cost is scaled up to the whole batch.
        ours: whether it is this library's.
    """

    name: str
    job: Callable[[Tensor], Found]
    batches: int | None = None
    images: int | None = None
    ours: bool = False


@dataclass(frozen=True)
class Row:
    """A method measured; None where there is nothing to say.

    Attributes:
        name, ours: see :class:`Method`.
        sample: what it was measured on.
        median, mean: forward-equivalents of a batch; the mean has its share of the set-up.
        values, trace: the largest relative error of the k leading eigenvalues, and of the trace.
        entropy: the largest error of the entropy of the spectrum normalised to trace 1, in nats.
        products: with J or Jᵀ for an image.
    """

    name: str
    ours: bool
    sample: str
    median: float | None = None
    mean: float | None = None
    values: float | None = None
    trace: float | None = None
    entropy: float | None = None
    products: float | None = None


def encoder_of(vae: VAE) -> pb.Map:
    """The map of a VAE's encoder, with nothing captured yet."""
    return pb.as_map(vae.encode, returns="mean_logvar")


def stacked(vae: VAE) -> Function:
    """F = [μ; σ], as a user of plain PyTorch writes it."""

    def function(x: Tensor) -> Tensor:
        mean, logvar = vae.encode(x)
        return torch.cat([mean, (0.5 * logvar).exp()], dim=1)

    return function


def methods(vae: VAE, quick: bool) -> list[Method]:
    """All that is measured, ours first; ``quick`` leaves out those that take more than seconds."""
    F = stacked(vae)
    found = [
        Method("score", scorer(vae), ours=True),
        Method("score, nystrom warm", scorer(vae, "nystrom", pb.WarmStart()), ours=True),
        *(
            Method(f"eigsh, {name}", solver(vae, name), ours=True)
            for name in ("golub-kahan", "lanczos", "lobpcg", "nystrom")
        ),
        Method("eigsh, nystrom warm", solver(vae, "nystrom", pb.WarmStart()), ours=True),
        Method(
            "linear_operator, Lanczos on our metric",
            _on(F, partial(peers.by_linear_operator, encoder=encoder_of(vae))),
        ),
    ]
    if quick:
        return found
    found.insert(2, Method("eigsh, dual", solver(vae, "dual"), batches=2, ours=True))
    found += [
        Method("the authors' way", _on(F, peers.authors_way), batches=1),
        Method("torch.func.jacrev", _on(F, peers.by_jacrev), batches=1),
    ]
    image_by_image: dict[str, Callable[..., Found]] = {
        f"scipy svds, {name}": partial(peers.by_scipy, solver=name)
        for name in ("arpack", "propack", "lobpcg")
    }
    image_by_image["scipy svds, arpack, our products"] = partial(
        peers.by_scipy, solver="arpack", encoder=encoder_of(vae)
    )
    image_by_image["scipy eigsh"] = partial(peers.by_scipy, solver="eigsh")
    for name in ("hutchinson_trace", "hutchpp_trace", "xtrace", "spectral density"):
        image_by_image[f"curvlinops {name}"] = partial(peers.by_curvlinops, estimator=name)
    image_by_image |= {
        "PRIMME svds": libraries.by_primme,
        "CoLA Lanczos": libraries.by_cola,
        "skerch sketched SVD": libraries.by_skerch,
        "matfree svd_partial (JAX)": libraries.ByMatfree(vae),
    }
    return found + [Method(name, _on(F, job), 1, FEW) for name, job in image_by_image.items()]


def _on(function: Function, method: Callable[..., Found]) -> Callable[[Tensor], Found]:
    return lambda x: method(function, x, K)


def scorer(
    vae: VAE, method: str = "auto", warm_start: pb.WarmStart | None = None
) -> Callable[[Tensor], Found]:
    """`pullback.score` with a map, and so a set-up, of its own."""
    encoder = encoder_of(vae)

    def job(x: Tensor) -> Found:
        s = pb.score(encoder, x, K, method=method, warm_start=warm_start)
        return Found(s.eigenvalues, s.trace, s.entropy, s.n_products)

    return job


def solver(
    vae: VAE, method: str, warm_start: pb.WarmStart | None = None
) -> Callable[[Tensor], Found]:
    """`pullback.eigsh`, likewise."""
    encoder = encoder_of(vae)

    def job(x: Tensor) -> Found:
        metric = pb.expected_metric(encoder, x)
        pairs = pb.eigsh(metric, K, method, warm_start=warm_start)
        return Found(values=pairs.values, products=pairs.n_products)

    return job


def truth(double: VAE, x: Tensor) -> Found:
    """What a VAE in float64 says: J by autograd, eigenvalues of JJᵀ."""
    return _gram_spectrum(peers.rows_by_autograd(stacked(double), x.double()))


def _gram_spectrum(J: Tensor) -> Found:
    return peers.of_spectrum(torch.linalg.eigvalsh(J @ J.mT), K)


def compare(
    candidates: list[Method], vae: VAE, batches: list[Tensor], exact: list[Found]
) -> list[Row]:
    """Each method on its share of the batches, with plain forwards in between."""
    rows, whole = [], batches[0]
    forward = torch.no_grad()(partial(vae.encode, whole))
    for method in tqdm(candidates, desc="measuring", unit="method"):
        inputs = [x[: method.images] for x in batches[: method.batches]]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                result = timed(method.job, inputs, forward)
            except ImportError:
                rows.append(Row(method.name, method.ours, "not installed"))
                continue
        scale = len(whole) / len(inputs[0])
        sample = f"{len(inputs[0])} images, ×{scale:g}" if scale > 1 else _batches(len(inputs))
        rows.append(_row(method, sample, result, scale, exact))
    return rows


def _batches(count: int) -> str:
    return "1 batch" if count == 1 else f"{count} batches"


def _row(method: Method, sample: str, result: Timed, scale: float, exact: list[Found]) -> Row:
    counts = [found.products for found in result.results if found.products is not None]
    return Row(
        name=method.name,
        ours=method.ours,
        sample=sample,
        median=scale * result.median,
        mean=scale * result.mean,
        products=statistics.fmean(counts) if counts else None,
        **errors(result.results, exact),
    )


def errors(found: list[Found], exact: list[Found]) -> dict[str, float | None]:
    """The largest of all images, and of the k leading eigenvalues; None of what is not found."""
    worst: dict[str, float | None] = {}
    for name in ("values", "trace", "entropy"):
        seen = []
        for result, true in zip(found, exact, strict=False):
            a, b = getattr(result, name), getattr(true, name)
            if a is not None:
                b = b[: len(a)]
                error = (a.to(b) - b).abs() / (1.0 if name == "entropy" else b)
                seen.append(error.max().item())
        worst[name] = max(seen, default=None)
    return worst


def dense(vae: VAE, batch: Tensor) -> Row:
    """eigh of G written down, image by image: measured on a square of pixels, scaled by N³."""
    J = peers.rows_by_autograd(stacked(vae), batch[:1])[0]
    square, seconds, found = peers.dense_eigh(J, batch.shape[1:], K, DENSE_SECONDS, clock)
    forward = timed(lambda _: None, [batch], torch.no_grad()(partial(vae.encode, batch))).forward
    size, full = square.shape[1], batch[0].numel()
    cost = len(batch) * seconds * (full / size) ** 3 / forward
    return Row(
        name="dense eigh of G",
        ours=False,
        sample=f"N = {size}, 1 image; ×(N ratio)³ ×{len(batch)}" if size < full
        else f"1 image, ×{len(batch)}",
        median=cost,
        mean=cost,
        **errors([found], [_gram_spectrum(square.double().unsqueeze(0))]),
    )  # fmt: skip

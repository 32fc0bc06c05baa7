"""What a complete score costs and needs against N, d, B and k."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import pullback as pb
import pullback.operators
from models import training
from models.vae import VAE, ConvVAE
from pullback.eigen import expected_products
from pullback.eigen.records import PROBES
from pullback.products import steady_tensors
from pullback.products.captured import CapturedLinearization

from .comparison import K, encoder_of
from .timing import Timed, in_new_process, largest_tensor, peak_memory, time_in, timed

SIDES, LATENTS, BATCHES, RANKS = (32, 64, 128), (32, 64, 128, 256), (1, 8, 32, 64), (1, 5, 10, 20)
BATCH = 32
REPEATS = 3
# Brief training of the encoders of other sizes: images and passes over them.
IMAGES, EPOCHS = 768, 4
TOLERANCE = 0.25
# Memory: 3×256×256 pixels, 2d = 2 048.
LARGE, LARGE_LATENT, LARGE_BATCH = (3, 256, 256), 1024, 2


@dataclass(frozen=True)
class Parts:
    """What the parts of a score cost for a batch, in forward-equivalents.

    Attributes:
        jvp, vjp: one column of J v and of Jᵀ u, alone.
        product: one of the two where they take turns, as in a solver.
        block: the J v of all probes, which do not wait for another.
        primal: what a new batch costs before its first product.
        inside: what a score spends in products and primal work.
        score: a complete score.
        counted: products that the score took.
        forward: seconds of one forward.
    """

    jvp: float
    vjp: float
    product: float
    block: float
    primal: float
    inside: float
    score: float
    counted: float
    forward: float

    @property
    def own_seconds(self) -> float:
        """What a score spends in neither, for each of its steps."""
        return (self.score - self.inside) * self.forward / steps(self.counted)

    @property
    def own_share(self) -> float:
        """The part of a score's time that is neither products nor primal work."""
        return 1 - self.inside / self.score


def steps(products: float) -> float:
    """Of Golub–Kahan: two products each, beside the probes, the start, the end and a check."""
    return max(1, (products - PROBES - 3) / 2)


def cost_of_parts(vae: VAE, batches: list[Tensor], k: int) -> Parts:
    """Products and score measured in turn on each batch; medians. Set-up is left out."""
    encoder = encoder_of(vae)
    pb.score(encoder, batches[0], k)  # sets up
    seconds: dict[str, list[float]] = defaultdict(list)
    forwards, counted = [], []
    for x in batches:
        forward = torch.no_grad()(partial(vae.encode, x))
        with steady_tensors():  # as within a score
            measured = _products(pb.jacobian(encoder, x), forward)
        with (
            time_in(pullback.operators, "linearize") as primal,
            time_in(CapturedLinearization, "jvp", "vjp") as products,
        ):
            measured["score"] = timed(lambda x: pb.score(encoder, x, k), [x], forward)
        for name, result in measured.items():
            forwards.append(result.forward)
            seconds[name].append(statistics.median(result.seconds))
        seconds["product"][-1] /= 2 * REPEATS
        seconds["primal"].append(seconds.pop("first")[0] - seconds["jvp"][-1])
        seconds["inside"].append(sum(primal) + sum(products))
        counted.append(measured["score"].results[0].n_products)
    one = statistics.median(forwards)
    medians = {name: statistics.median(values) / one for name, values in seconds.items()}
    return Parts(**medians, counted=statistics.fmean(counted), forward=one)


def _products(J: pb.JacobianOperator, forward: Callable[[], Any]) -> dict[str, Timed]:
    """The first product at a base point, single ones, some in turn, and a block of probes."""
    probes = torch.randn(J.shape[0], PROBES, J.shape[2]).to(J.x).mT
    v, u, Jt = probes[..., :1].contiguous(), torch.randn(*J.shape[:2], 1).to(J.x), J.mT

    def turns(v: Tensor) -> None:
        for _ in range(REPEATS):
            v = J._t_matmul(J._matmul(v))

    with torch.no_grad():
        return {
            "first": timed(J.matmul, [v], forward),
            "jvp": timed(J.matmul, [v] * REPEATS, forward),
            "vjp": timed(Jt.matmul, [u] * REPEATS, forward),
            "product": timed(turns, [v] * REPEATS, forward),
            "block": timed(J.matmul, [probes] * REPEATS, forward),
        }


@dataclass(frozen=True)
class Point:
    """A score's cost at one setting.

    Attributes:
        axis, setting: what is varied, and its value here.
        measured: forward-equivalents of a complete score.
        predicted: primal work, the probes, the other products of the cost model times the cost of
            one, and the solver's own arithmetic in as many steps.
        counted: products that the score took.
    """

    axis: str
    setting: int
    measured: float
    predicted: float
    counted: float

    @property
    def deviation(self) -> float:
        """Measured over predicted, less 1."""
        return self.measured / self.predicted - 1


@dataclass(frozen=True)
class _Run:
    """The parts of a score at one setting, for a Jacobian of this shape."""

    axis: str
    setting: int
    parts: Parts
    batch: int
    shape: tuple[int, int]
    k: int

    @property
    def numbers(self) -> int:
        """In the inputs of a batch."""
        return self.batch * self.shape[1]


def cost_points(vae: VAE, train: Tensor, test: Tensor, seed: int, quick: bool) -> list[Point]:
    """One of N, d, B and k varied at a time, on briefly trained encoders where N or d differ."""
    batches = list(test.split(BATCH)[:REPEATS])
    pixels, latent = test[0].numel(), vae.config["latent"]
    own = {"N": pixels, "d": latent, "B": BATCH, "k": K}
    base = _run(vae, batches)
    runs = [replace(base, axis=axis, setting=setting) for axis, setting in own.items()]
    others = set(BATCHES) - {BATCH}
    runs += [_run(vae, list(test[: REPEATS * b].split(b)), "B", b) for b in others]
    runs += [_run(vae, batches, "k", k, k) for k in RANKS if k != K]
    if not quick:
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        few = train[chosen[:IMAGES]]
        for side in set(SIDES) - {test.shape[-1]}:
            x = [resized(batch, side) for batch in batches]
            other = _trained(vae, resized(few, side), latent, seed)
            runs.append(_run(other, x, "N", x[0][0].numel()))
        for size in set(LATENTS) - {latent}:
            runs.append(_run(_trained(vae, few, size, seed), batches, "d", size))
    batch_sizes = [run for run in runs if run.axis == "B"]
    ends = [f(batch_sizes, key=lambda run: run.numbers) for f in (min, max)]
    points = [_point(run, *ends) for run in runs]
    return sorted(points, key=lambda point: (list(own).index(point.axis), point.setting))


def _run(vae: VAE, batches: list[Tensor], axis: str = "", setting: int = 0, k: int = K) -> _Run:
    shape = 2 * vae.config["latent"], batches[0][0].numel()
    return _Run(axis, setting, cost_of_parts(vae, batches, k), len(batches[0]), shape, k)


def _point(run: _Run, smallest: _Run, largest: _Run) -> Point:
    """What the cost model says: own arithmetic takes a fixed time a step, and one a number."""
    seconds, more = smallest.parts.own_seconds, largest.parts.own_seconds
    slope = (more - seconds) / (largest.numbers - smallest.numbers)
    own_seconds = seconds + slope * (run.numbers - smallest.numbers)
    costs, parts = expected_products(*run.shape, run.k), run.parts
    expected = min(costs["dual"], costs["golub-kahan"])  # what "auto" chooses between
    predicted = (
        parts.primal
        + parts.block
        + (expected - PROBES) * parts.product
        + steps(expected) * own_seconds / parts.forward
    )
    return Point(run.axis, run.setting, parts.score, predicted, parts.counted)


def _trained(like: VAE, images: Tensor, latent: int, seed: int) -> VAE:
    """Briefly, with the convolutions of another."""
    vae = training.train(
        images, ConvVAE, epochs=EPOCHS, seed=seed, filters=like.config["filters"], latent=latent
    )
    return vae.to(next(like.parameters()).device).requires_grad_(False)


def resized(images: Tensor, side: int) -> Tensor:
    """Square images of another size."""
    return nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Memory:
    """What a complete score needs.

    Attributes:
        largest: numbers in its largest tensor.
        bound: max(the largest activation of a forward, B·N·(k + 4)).
        event, batch, outputs: shape of a large image, how many there are, and 2d for them.
        forward, score: bytes of peak resident memory with one forward of large images, and with
            one and a score; None where it was not measured.
    """

    largest: int
    bound: int
    event: tuple[int, ...] = LARGE
    batch: int = LARGE_BATCH
    outputs: int = 2 * LARGE_LATENT
    forward: int | None = None
    score: int | None = None

    @property
    def beyond_forward(self) -> int | None:
        """Bytes that the score adds."""
        return None if self.forward is None or self.score is None else self.score - self.forward


def memory(vae: VAE, x: Tensor, k: int, quick: bool) -> Memory:
    """Largest tensor of a score of x, and peak memory for images of 256×256 pixels."""
    encoder = encoder_of(vae)
    pb.score(encoder, x, k)  # sets up
    activation = largest_tensor(torch.no_grad()(lambda: vae.encode(x)))
    needed = Memory(
        largest=largest_tensor(lambda: pb.score(encoder, x, k)),
        bound=max(activation, x.numel() * (k + 4)),
    )
    if quick:
        return needed
    forward, score = (in_new_process(peak_of_large, k, scored) for scored in (False, True))
    return replace(needed, forward=forward, score=score)


def peak_of_large(k: int, scored: bool) -> int:
    """Peak memory of a process that encodes, and may score, large images; untrained weights."""
    torch.manual_seed(0)
    vae = ConvVAE(LARGE, latent=LARGE_LATENT).eval()
    x = torch.rand(LARGE_BATCH, *LARGE)
    with torch.no_grad():
        vae.encode(x)
    if scored:
        pb.score(encoder_of(vae), x, k)
    return peak_memory()

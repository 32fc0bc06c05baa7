"""What a small step's displacement costs: attacks with smaller and larger budgets of passes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import pullback as pb
from pullback.arguments import require_integer, require_positive
from pullback.attacks import EigenAttack, GradientAttack, PGDAttack

from .. import named_arrays
from ..named_arrays import Variable
from . import drawing
from .optimality_report import STYLES
from .tables import columns
from .vaes import Subject, Vaes, encoder_of, unusual

EIGEN, GRADIENT, PGD_ONCE, PGD = "eigenvector", "gradient", "PGD, one start", "PGD, five starts"
TOLERANCES = (0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4)
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 25, 50)
QUICK_STEPS, QUICK_IMAGES = (2, 8), 20
LAYOUT = {
    "run": Variable(("run",), "index of the run of an attack"),
    "sample": Variable(("sample",), "index of the image in the held-out part of its data set"),
    "attack": Variable(("run",), "how the step was found"),
    "budget": Variable(("run",), "steps of one start; for the eigenvector, the tolerance"),
    "n_products": Variable(
        ("run",), "passes through the encoder per image, a gradient counting as two"
    ),
    "displacement": Variable(
        ("run", "sample"),
        "Euclidean distance between the means of the perturbed and the original image",
    ),
}


@dataclass(frozen=True)
class Costs:
    """Runs of attacks on the same images, with the same bound on the norm of the step.

    Attributes:
        attack: ``(runs,)``, names.
        budget: ``(runs,)``, steps of one start, or a tolerance.
        n_products: ``(runs,)``, passes per image.
        displacement: ``(runs, n)``, ‖μ(x_c) − μ(x)‖₂.
        sample: ``(n,)``.
        configuration: what else the numbers depend on.
    """

    attack: tuple[str, ...]
    budget: NDArray
    n_products: NDArray
    displacement: NDArray
    sample: NDArray
    configuration: dict[str, Any]

    @property
    def relative(self) -> NDArray:
        """``(runs, n)``, displacements over the largest that any run found for the image."""
        return self.displacement / self.displacement.max(0)

    def of(self, attack: str) -> tuple[NDArray, NDArray]:
        """Passes, ascending, and the mean relative displacement over images after them."""
        chosen = np.flatnonzero(np.array(self.attack) == attack)
        chosen = chosen[np.argsort(self.n_products[chosen], kind="stable")]
        return self.n_products[chosen], self.relative[chosen].mean(1)

    def cheapest(self, attack: str, level: float) -> tuple[int, float] | None:
        """The fewest passes after which the mean is at least ``level``, and that mean."""
        passes, means = self.of(attack)
        enough = np.flatnonzero(means >= level)
        return (int(passes[enough[0]]), float(means[enough[0]])) if len(enough) else None


def passes(
    out: str,
    beta: float = 0.5,
    eps: float = 0.01,
    images: int = 100,
    quick: bool = False,
    redraw: bool = False,
    **options: Any,
) -> None:
    """How far small steps move the code, against the passes through the encoder to find them.

    The same command again draws the figure and prints the table without computing anything.

    Args:
        out: folder for passes.h5, passes.png and the checkpoint.
        beta: weight of the Kullback-Leibler divergence.
        eps: norm of the steps, which are not clipped.
        images: how many held-out images are attacked, the first ones; all, if there are fewer.
        quick: fewer images and budgets.
        redraw: draw and print what the folder holds, whatever it was measured with.
        options: see :class:`Vaes`.
    """
    require_integer("images", images, 1)
    require_positive("eps", eps)
    path, vaes = Path(out, "passes.h5"), Vaes(out, **options)
    count = min(images, QUICK_IMAGES) if quick else images
    steps = QUICK_STEPS if quick else STEPS
    settings = {"beta": beta, "eps": eps, "images": count, "steps": list(steps)}
    configuration = {**vaes.configuration, **settings}
    if not redraw and not named_arrays.holds(path, configuration):
        encoder = encoder_of(vaes.get(Subject(beta)))
        found = measure(encoder, vaes.held_out(count), eps, steps, vaes.seed)
        arrays = {**vars(found), "run": np.arange(len(found.attack))}
        named_arrays.write(path, LAYOUT, arrays, configuration)
    costs = read(path)
    print(table(costs))
    print(f"\nfigure     {draw(costs, path.with_suffix('.png'))}")


def read(path: Path) -> Costs:
    """A file of :func:`passes`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    arrays, configuration = named_arrays.read(path, LAYOUT)
    arrays.pop("run", None)
    return Costs(**arrays, configuration=configuration)


def measure(encoder: pb.Map, x: Tensor, eps: float, steps: tuple[int, ...], seed: int) -> Costs:
    """Every attack with every budget, on images ``(n, *event)`` as one batch."""
    names, budgets, products, distances = [], [], [], []
    runs = list(_runs(encoder, eps, steps))
    for name, budget, attack in tqdm(runs, desc="attacks", unit="run"):
        moved = attack(x, generator=torch.Generator(x.device).manual_seed(seed))
        names.append(name)
        budgets.append(float(budget))
        products.append(moved.n_products)
        distances.append(moved.latent_distance.double().cpu().numpy())
    return Costs(
        tuple(names), np.array(budgets), np.array(products), np.array(distances),
        np.arange(len(x)), {},
    )  # fmt: skip


def _runs(
    encoder: pb.Map, eps: float, steps: tuple[int, ...]
) -> Iterator[tuple[str, float, EigenAttack | GradientAttack | PGDAttack]]:
    for tolerance in TOLERANCES:
        yield EIGEN, tolerance, EigenAttack(encoder, eps=eps, tol=tolerance)
    for count in steps:
        yield GRADIENT, count, GradientAttack(encoder, eps=eps, steps=count)
        yield PGD_ONCE, count, PGDAttack(encoder, eps=eps, steps=count, restarts=1)
        yield PGD, count, PGDAttack(encoder, eps=eps, steps=count, restarts=5)


def table(costs: Costs) -> str:
    """Every run: its budget, its passes and its displacement."""
    rows = [
        [name, f"{budget:g}", f"{products}", f"{mean:.4f}", f"{low:.4f}"]
        for name, budget, products, mean, low in zip(
            costs.attack, costs.budget, costs.n_products, costs.relative.mean(1),
            np.quantile(costs.relative, 0.05, axis=1), strict=True,
        )
    ]  # fmt: skip
    titles = ["attack", "steps or tol", "passes", "displacement / best", "5 % of images"]
    return f"{caption(costs)}\n{columns(titles, rows)}"


def draw(costs: Costs, path: Path) -> Path:
    """What is missing to the largest displacement, against passes."""
    figure, axis = plt.subplots(figsize=(7.5, 5), layout="constrained")
    styles = {EIGEN: STYLES[EIGEN], GRADIENT: STYLES["gradient"], PGD_ONCE: STYLES["PGD"]}
    styles[PGD] = STYLES["PGD from eigenvector"]
    for name, style in styles.items():
        spent, means = costs.of(name)
        # What is less than rounding of float32 is drawn at rounding.
        axis.plot(spent, np.maximum(1 - means, 1e-7), label=name, **style)
    axis.set(xscale="log", yscale="log", xlabel="passes through the encoder per image")
    axis.set_ylabel("1 − displacement / largest found, mean over images")
    drawing.plain_ticks(axis.xaxis)
    axis.grid(color="0.93")
    axis.legend(frameon=False)
    title = f"What a small step that moves the code far costs\n{caption(costs)}"
    return drawing.save(figure, path, title)


def caption(costs: Costs) -> str:
    """What was measured, in a line."""
    facts = costs.configuration
    return (
        f"{facts['images']} held-out images of {facts['dataset']}, β = {facts['beta']:g}, "
        f"{facts['epochs']} epochs{unusual(facts)}, steps of norm {facts['eps']:g}, not clipped"
    )

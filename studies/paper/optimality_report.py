"""Table and figure of the comparison of attacks, from its file's contents alone."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from ..pictures import save_figure
from .displacements import Displacements
from .vaes import unusual
from .verdicts import HOLDS

EIGEN, PGD, PGDS = "eigenvector", "PGD", ("PGD", "PGD from eigenvector")
# Hollow markers for what would hide another curve.
STYLES: dict[str, dict[str, Any]] = {
    EIGEN: {"color": "tab:red", "marker": "o", "markersize": 5},
    PGD: {"color": "tab:blue", "marker": "s", "markersize": 5},
    PGDS[1]: {"color": "tab:cyan", "marker": "^", "linestyle": "--", "markersize": 9},
    "gradient": {"color": "tab:green", "marker": "v", "linestyle": ":", "markersize": 9},
    "random": {"color": "0.5", "marker": "d", "markersize": 5},
}


def table(found: Displacements, configuration: dict[str, Any]) -> str:
    """The eigenvector's displacement beside the best PGD's for each eps, and what follows."""
    lines = [title(configuration), "", _passes(found)]
    pgd, eigen = (found.n_products[:, found.attack.index(name)] for name in (PGD, EIGEN))
    ratios = found.ratio(EIGEN, PGDS)
    for clipping, ratio, factor in zip(found.clipping, ratios, pgd / eigen, strict=True):
        median, low = np.quantile(ratio, (0.5, 0.05), axis=1)
        lines += ["", f"{clipping}: displacement along the eigenvector / by the best PGD"]
        lines += [f"{'eps':>10}{'median':>10}{'5 %':>10}{'passes PGD/eigenvector':>26}"]
        for row in zip(found.eps, median, low, factor, strict=True):
            lines.append("{:>10.4g}{:>10.4f}{:>10.4f}{:>26.1f}".format(*row))
        lines += [verdict(found.eps, median)]
    return "\n".join(lines)


def verdict(eps: NDArray[np.float64], median: NDArray[np.float64]) -> str:
    """Up to which eps, of those tried, the median ratio is at least 0.99 without a gap.

    Clipping is no part of the linearisation: where it is on, it can be what the ratio suffers from,
    at every eps.
    """
    held = int((median >= HOLDS).cumprod().sum())
    if held == 0:
        return (
            f"the linearisation holds at no eps tried: the median ratio is {median[0]:.4f}, less "
            f"than {HOLDS}, already at eps = {eps[0]:.4g}"
        )
    text = f"the linearisation holds up to eps = {eps[held - 1]:.4g}: median {median[held - 1]:.4f}"
    if held == len(eps):
        return f"{text} at the largest eps tried"
    return f"{text} there, {median[held]:.4f} at {eps[held]:.4g}"


def draw(found: Displacements, configuration: dict[str, Any], path: Path) -> Path:
    """Displacement relative to the linear prediction, against eps: medians and quartiles."""
    figure, axes = plt.subplots(
        1, len(found.clipping), figsize=(11, 5.8), sharey=True, layout="constrained"
    )
    for axis, clipping, relative in zip(axes, found.clipping, found.relative(), strict=True):
        _panel(axis, found, relative)
        axis.set_title(clipping if clipping == "unclipped" else "clipped to [0, 1]")
    axes[0].set_ylabel("latent displacement ‖μ($x_c$) − μ($x$)‖ / (√λ₁·ε)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        "How far each attack moves the code, over what the linearisation says; median and "
        f"quartiles\n{title(configuration)}"
    )
    return save_figure(figure, path)


def _panel(axis: Axes, found: Displacements, relative: NDArray[np.float64]) -> None:
    passes = found.n_products.mean(axis=(0, 2))
    for name, values, products in zip(found.attack, relative, passes, strict=True):
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        style = STYLES[name]
        axis.fill_between(found.eps, low, high, color=style["color"], alpha=0.15, linewidth=0)
        fill = "none" if "linestyle" in style else "full"
        label = f"{name}, {products:.0f} passes"
        axis.plot(found.eps, median, fillstyle=fill, label=label, **style)
    axis.axhline(1, color="black", linewidth=0.8, label="linear prediction √λ₁·ε")
    axis.set(xscale="log", xlabel="norm of the step before clipping, ‖η‖₂ ≤ ε")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_ylim(bottom=0)
    axis.grid(color="0.93")
    axis.set_axisbelow(True)


def title(configuration: dict[str, Any]) -> str:
    """What was measured, in a line."""
    return (
        f"{configuration['images']} held-out images of {configuration['dataset']}, β = "
        f"{configuration['beta']:g}, {configuration['epochs']} epochs{unusual(configuration)}; PGD "
        "with "
        f"{configuration['steps']} steps, {configuration['restarts']} restarts"
    )


def _passes(found: Displacements) -> str:
    means = found.n_products.mean(axis=(0, 2))
    pairs = zip(found.attack, means, strict=True)
    return "passes per image: " + ", ".join(f"{name} {mean:.0f}" for name, mean in pairs)

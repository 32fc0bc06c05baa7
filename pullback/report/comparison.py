"""Two runs in one picture: each score's difference, in units of how far images differ."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ..archive.comparison import Comparison
from .figures import ACCENT, INK, STYLE


def draw_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Draw mean differences with their intervals into a file, PNG or SVG by its name.

    Scores have different units, so each is divided by its standard deviation over the images of A.

    Raises:
        ValueError: the file has a name of another kind; or no score differs among images.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"the picture {path} must be named .png, .svg or .pdf")
    shown = [d for d in comparison.differences if d.spread > 0]
    if not shown:
        raise ValueError("no score differs among the images of A, so that there is no unit to draw")
    centre = np.array([d.value / d.spread for d in shown])
    ends = np.array([[d.low / d.spread, d.high / d.spread] for d in shown]).T
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 1.3 + 0.3 * len(shown)), layout="constrained")
        axes = figure.subplots()
        place = np.arange(len(shown))
        axes.axvline(0, color=INK, linewidth=1)
        axes.hlines(place, *ends, color=ACCENT, linewidth=2.5)
        axes.plot(centre, place, "o", color=ACCENT)
        axes.set_yticks(place, [d.score for d in shown])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean of B − mean of A, in standard deviations of A")
        title = "each image with itself" if comparison.paired else "images not paired"
        axes.set_title(f"{title}; bars are 95 % bootstrap intervals", fontsize=9.5, loc="left")
        figure.savefig(path)
    return path

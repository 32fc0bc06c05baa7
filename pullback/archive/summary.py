"""What a run holds, in a text for the terminal: progress, quantiles of the scores, doubts."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..eigen import expected_products
from ..eigen.cost import choose_method
from .columns import COLUMNS
from .comparison import Comparison
from .manifest import read_manifest
from .run import find_failures, read, scan
from .shards import list_shards

# The columns that tell what is to be doubted.
DOUBTFUL = ("converged", "eigenvalues", "entropy_error", "failed")
_MOST_FAILURES = 100


def summary(run: Path) -> str:
    """What a run holds, as a text: encoder, data, progress, quantiles of the scores, doubts."""
    manifest = read_manifest(run)
    files = list(list_shards(run, manifest))
    finished = sum(shard.path.exists() for shard in files)
    encoder, data, settings = manifest["encoder"], manifest["data"], manifest["score"]
    archived = "merged into archive.h5" if Path(run, "archive.h5").exists() else "not merged yet"
    lines = [
        f"encoder    {encoder.get('factory', '?')}, returns "
        f"{encoder.get('returns') or 'as found'}, weights {encoder['weights'][:12]}",
        f"data       {data['name']}: {data['count']} images of shape {tuple(data['event_shape'])}",
        f"settings   k = {settings['k']}, seed {settings['seed']}, {settings['dtype']}",
        *_cost_model(manifest),
        f"shards     {finished} of {len(files)} finished, {archived}",
    ]
    columns, doubts = _look_through(run, manifest["columns"])
    if not doubts.count:
        return "\n".join(map(plain_text, lines))
    head, table = f"{'':18}{'median':>12}{'5 %':>12}{'95 %':>12}", []
    for name, values in columns.items():
        if name == "sample":
            continue
        # Values that occur, since there is nothing between −∞ and a number.
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        quantiles = np.quantile(values, [0.5, 0.05, 0.95], method="inverted_cdf")
        numbers = "".join(f"{q:12.4g}" for q in quantiles)
        table.append(f"{name:18}{numbers}  {COLUMNS[name].long_name}")
    if table:
        lines += ["", head, *table, "", *_extremes(run, columns)]
    lines += ["", *doubts.lines(), *_failures(run)]
    return "\n".join(map(plain_text, lines))


def _failures(run: Path) -> list[str]:
    """Why images could not be scored, as far as a terminal has room."""
    failures = find_failures(run)
    lines = [f"image {index}: {reason}" for index, reason in failures.items()][:_MOST_FAILURES]
    more = len(failures) - len(lines)
    rest = ["and more: the column failed is 1 for each"] if more else []
    return ["", *lines, *rest] if lines else []


def _extremes(run: Path, columns: dict[str, np.ndarray]) -> list[str]:
    """Which image is the least robust, which the most: their numbers, and files where known."""
    radius = columns["spectral_radius"]
    if np.isnan(radius).all():
        return []
    lines = []
    for what, place in (("least", np.nanargmax(radius)), ("most", np.nanargmin(radius))):
        index = int(columns["sample"][place])
        found = read(run, ["file"], slice(index, index + 1))
        called = f", {found['file'][0].decode('utf-8', 'replace')}" if found else ""
        name = f"{what} robust"
        lines.append(f"{name:18}{radius[place]:12.4g}  spectral_radius of image {index}{called}")
    return lines


def plain_text(text: str) -> str:
    """One line of what cannot change a terminal: names and messages come from anywhere."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def tabulate(comparison: Comparison) -> str:
    """A comparison as a text: whether images are paired, and a line for each score."""
    pairing = "paired" if comparison.paired else "not paired"
    head = f"{'':18}{'mean of A':>12}{'mean of B':>12}{'B - A':>12}{'95 % interval':>26}  images"
    lines = [f"{pairing}: {comparison.reason}", "", head]
    for d in comparison.differences:
        numbers = "".join(f"{x:12.4g}" for x in (d.mean_a, d.mean_b, d.value))
        count = str(d.counts[0]) if comparison.paired else f"{d.counts[0]} and {d.counts[1]}"
        lines.append(f"{d.score:18}{numbers}{f'{d.low:.4g} to {d.high:.4g}':>26}  {count}")
    return "\n".join(map(plain_text, lines))


class Doubts:
    """What is to be doubted of the scores of a run, counted table by table."""

    def __init__(self) -> None:
        self.count = self._failed = self._unconverged = self._deficient = 0
        self._error = 0.0

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Count more images, by their columns :data:`DOUBTFUL`."""
        scored = columns["failed"] == 0
        self.count += len(scored)
        self._failed += int((~scored).sum())
        self._unconverged += int((columns["converged"][scored] == 0).any(axis=1).sum())
        self._deficient += int((columns["eigenvalues"][scored] == 0).any(axis=1).sum())
        self._error = max(self._error, *columns["entropy_error"][scored].tolist(), 0.0)

    def lines(self) -> list[str]:
        """What to doubt, a sentence each."""
        right = self.count - self._unconverged - self._failed
        failed = [f"{self._failed} of {self.count} images could not be scored"]
        if self._failed == self.count:
            return failed
        return [
            *(failed if self._failed else []),
            f"{right} of {self.count} images have all eigenpairs converged",
            f"{self._deficient} of {self.count} images have a rank below k (their eigenvalues end "
            "in zeros)",
            f"the largest standard error of an entropy is {self._error:.2g} nat",
        ]


def _look_through(run: Path, held: Iterable[str]) -> tuple[dict[str, np.ndarray], Doubts]:
    """The scores with one number for each image, and what is to be doubted; never all in memory."""
    doubts, parts = Doubts(), []
    names = [n for n in held if COLUMNS[n].dimensions == ("sample",) and COLUMNS[n].dtype is None]
    shown = ["sample", *(name for name in names if not name.endswith("_error"))]
    for table in scan(run, {*shown, *DOUBTFUL}):
        doubts.add(table)
        parts.append([table[name] for name in shown])
    columns = zip(shown, map(np.concatenate, zip(*parts, strict=True)), strict=False)
    return dict(columns), doubts


def _cost_model(manifest: dict) -> list[str]:
    """The method, and what each would cost; nothing for runs that do not say."""
    settings = manifest["score"]
    if "method" not in settings:
        return []
    shape = manifest["encoder"]["outputs"], math.prod(manifest["data"]["event_shape"])
    expected = expected_products(*shape, settings["k"])
    cost = ", ".join(f"{name} {products}" for name, products in expected.items())
    method = settings["method"]
    chosen = f"auto, that is {choose_method(*shape, settings['k'])}" if method == "auto" else method
    return [f"method     {chosen}", f"cost model {cost} Jacobian products per image"]

"""Two runs held against each other: how far each score differs on average, and how surely."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import COLUMNS
from .configuration import find_differences
from .manifest import read_manifest
from .reading import origin_of
from .run import find_origin, finished_files, read
from .shards import list_shards

log = logging.getLogger("pullback")

_Run = tuple[str | Path, dict[str, Any]]
# What manifests know that tells all images from others, and not some of them only.
_OF_ALL_IMAGES = ("sha256", "modified")
_RESAMPLES, _MOST_GROUPS = 2000, 10_000
_OF_K = "log_volume"
_SCORES = [
    name
    for name, column in COLUMNS.items()
    if column.dimensions == ("sample",) and column.dtype is None and not name.endswith("_error")
]


@dataclass(frozen=True)
class Difference:
    """How far the mean of a score differs: ``mean_b − mean_a``.

    Attributes:
        score: its name in :data:`pullback.archive.COLUMNS`.
        mean_a, mean_b: over the images that count.
        low, high: between these lies 95 % of the bootstrap distribution of the difference; NaN of a
            single image, which does not tell how others differ.
        spread: standard deviation of the score in A, over images.
        counts: of how many images, of A and of B, where the score is finite (if paired, in both).
    """

    score: str
    mean_a: float
    mean_b: float
    low: float
    high: float
    spread: float
    counts: tuple[int, int]

    @property
    def value(self) -> float:
        """How much larger the mean is in B."""
        return self.mean_b - self.mean_a


@dataclass(frozen=True)
class Comparison:
    """Two runs held against each other.

    Attributes:
        differences: one for each score that both have of some image, and that means the same in
            both: ``log_volume`` of k eigenvalues is no other's of more.
        paired: whether the images are known to be the same, and each is compared with itself.
        reason: how that is known, or what differs.
    """

    differences: list[Difference]
    paired: bool
    reason: str


def compare(a: str | Path, b: str | Path, *, seed: int = 0) -> Comparison:
    """Mean difference of each score of two runs, with a 95 % bootstrap interval (percentiles).

    Images are resampled 2 000 times; pairs of them where both runs are of the same images. Of more
    than 10 000, random groups of equal size are resampled, which leaves the variance as it is.

    Args:
        a: the run that is compared with.
        b: the other one; differences are B − A.
        seed: of the resampling.

    Raises:
        FileNotFoundError: one is no run.
        ValueError: a file is damaged, or the runs have no score in common.
    """
    runs = [(run, read_manifest(run)) for run in (a, b)]
    paired, reason = _same_images(*runs)
    tables = [read(run, ["sample", *_SCORES]) for run in (a, b)]
    if not all(tables):
        empty = next(run for run, table in zip((a, b), tables, strict=True) if not table)
        raise ValueError(f"{empty} has no finished shard yet; run `pullback score` first")
    one, two = tables
    if paired:  # as far as both are finished
        _, in_one, in_two = np.intersect1d(one["sample"], two["sample"], return_indices=True)
        one = {name: column[in_one] for name, column in one.items()}
        two = {name: column[in_two] for name, column in two.items()}
    names = _find_comparable(*(manifest["score"]["k"] for _, manifest in runs))
    pairs = {name: (one[name].astype(float), two[name].astype(float)) for name in names}
    found = [_difference(name, *pair, paired, seed) for name, pair in pairs.items()]
    differences = [difference for difference in found if difference is not None]
    if not differences:
        raise ValueError(f"{a} and {b} have no finite score of an image to be compared")
    return Comparison(differences, paired, reason)


def _find_comparable(k: int, other: int) -> list[str]:
    """The scores that mean the same in runs of so many eigenpairs."""
    if k == other:
        return _SCORES
    log.warning("%s is of k eigenvalues, and left out: k was %d and is %d", _OF_K, k, other)
    return [name for name in _SCORES if name != _OF_K]


def _same_images(a: _Run, b: _Run) -> tuple[bool, str]:
    """Whether two runs are of the same images, and how that is known."""
    (_, one), (_, two) = a, b
    if one["shard_size"] == two["shard_size"] and one["data"]["count"] == two["data"]["count"]:
        same = _have_same_checksums(a, b)
        if same is not None:
            which = "the same checksum" if same else "different checksums"
            return same, f"their pixels, as read, have {which}"
    # A copy has another name, and an array that was copied another date.
    data = [{k: v for k, v in m["data"].items() if k != "name"} for m in (one, two)]
    differences = find_differences(*data)
    if differences:
        return False, "; ".join(differences.values())
    if any(fact in one["data"] for fact in _OF_ALL_IMAGES):
        return True, "the data sets are the same"
    return False, "nobody knows whether all images are the same, as nothing is known of all of them"


def _have_same_checksums(a: _Run, b: _Run) -> bool | None:
    """Whether pixels that both have read are the same, in shards alike; None if unknown."""
    if all(_is_whole(*run) for run in (a, b)):
        one, two = (find_origin(run).data_sha256 for run, _ in (a, b))
        return one == two if one and two else None
    pairs = [
        [origin_of(shard.path).data_sha256 for shard in shards]
        for shards in zip(list_shards(*a), list_shards(*b), strict=True)
        if all(shard.path.exists() for shard in shards)
    ]
    if not pairs or not all(map(all, pairs)):
        return None
    return all(one == two for one, two in pairs)


def _is_whole(run: str | Path, manifest: dict[str, Any]) -> bool:
    """Whether all images are scored, which a checksum then is of."""
    scored = sum(file.layout.count for file in finished_files(run, manifest))
    return bool(scored == manifest["data"]["count"])


def _difference(
    name: str, a: NDArray[np.float64], b: NDArray[np.float64], paired: bool, seed: int
) -> Difference | None:
    """That of one score, where it is finite."""
    if paired:
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both], b[both]
    else:
        a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not (len(a) and len(b)):
        return None
    generator = np.random.default_rng(seed)
    if paired:
        means = _resample(b - a, generator)
    else:
        means = _resample(b, generator) - _resample(a, generator)
    counts = len(a), len(b)
    low, high = np.quantile(means, [0.025, 0.975]) if min(counts) > 1 else (np.nan, np.nan)
    return Difference(name, a.mean(), b.mean(), float(low), float(high), float(a.std()), counts)


def _resample(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Means of as many values as there are, drawn with replacement, many times."""
    groups = min(len(values), _MOST_GROUPS)
    size = len(values) // groups
    values = generator.permutation(values)[: groups * size].reshape(groups, size).mean(axis=1)
    draws = (generator.integers(groups, size=groups) for _ in range(_RESAMPLES))
    return np.array([values[drawn].mean() for drawn in draws])

"""Records and trainings of which the truth is known, for the claims to be tried on."""

from pathlib import Path

import numpy as np

from studies.paper.archives import Archives
from studies.paper.measurement import COORDINATES, MEASURED, coordinates, effort
from studies.paper.records import LAYOUT, Record
from studies.paper.scores import by_name
from studies.paper.seeds import Trainings

EXTENT = effort(40, quick=False)
CONFIGURATION = {"dataset": "made", "epochs": 1, "metric": "expected", "seed": 0, "images": 40}
VARIANCE = 5.0
MANY = np.geomspace(0.1, 10, 9)  # enough for a scatter around a curve; 1 is among them
THREE = [0, 4, 8]  # 0.1, 1 and 10


def made(betas, mixup=0.0, samples=40, **columns):
    """A record of positive noise, with some columns given."""
    random = np.random.default_rng(0)
    arrays = coordinates(samples, EXTENT)
    sizes = {key: len(arrays[key]) for key in ("sample", "rank", "step", "marked")}
    sizes["vae"] = len(betas)
    arrays |= {"vae": np.arange(len(betas)), "beta": np.array(betas, dtype=float)}
    arrays["mixup"] = np.full(len(betas), mixup)
    arrays["seed"] = np.zeros(len(betas), dtype=int)
    for key in MEASURED:
        shape = [sizes[dimension] for dimension in LAYOUT[key].dimensions]
        arrays[key] = random.gamma(50, 1 / 50, shape)
    assert set(arrays) == set(LAYOUT) == {*COORDINATES, *MEASURED, "vae", "beta", "mixup", "seed"}
    arrays["pixel_variance"] = np.full(len(betas), VARIANCE)
    arrays |= {key: np.broadcast_to(values, arrays[key].shape) for key, values in columns.items()}
    return Record(arrays, CONFIGURATION)


def times(factor, flat, **configuration):
    """As ``flat``, with mixup, and ρ multiplied for each VAE."""
    factors = np.broadcast_to(factor, len(flat["beta"]))[:, None, None]
    changed = {"eigenvalues": factors * flat["eigenvalues"], "mixup": np.ones(len(flat["beta"]))}
    return Record(flat.arrays | changed, CONFIGURATION | configuration)


def trained(ratios, scatter, seed_of_noise=0, seeds=5):
    """Trainings of three β, with mixup and without, whose ρ have given ratios and a scatter."""
    random = np.random.default_rng(seed_of_noise)
    names = tuple(by_name(made([1]).select([0]).arrays))
    rows = [(b, w, s) for s in range(seeds) for b in (0.1, 1, 10) for w in (0, 1)]
    beta, mixup, seed = (np.array(column) for column in zip(*rows, strict=True))
    expected = np.where(mixup > 0, np.array(ratios)[np.searchsorted((0.1, 1, 10), beta)], 1.0)
    mean = expected * np.exp(scatter * random.normal(size=len(rows)))
    everything = np.tile(mean[:, None], len(names))
    variance = np.full(len(rows), VARIANCE)
    return Trainings(beta, mixup, seed, names, everything, everything, variance, CONFIGURATION)


def archives_of(**found):
    return Archives(Path("made"), **found)


def verdicts(found):
    return {claim.text: claim.verdict.word for claim in found}

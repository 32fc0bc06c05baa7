"""The diagrams of a page, whatever the scores are."""

import numpy as np
import pytest

from pullback.archive.origin import Origin
from pullback.report.contents import Contents
from pullback.report.figures import as_svg, draw_all

N = 2000
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 2, N])
@pytest.mark.parametrize(
    ("radius", "entropy"),
    [
        (RNG.random(N), RNG.random(N)),
        (np.exp(5 * RNG.normal(size=N)), RNG.random(N)),
        (np.ones(N), np.zeros(N)),
        (np.zeros(N), np.full(N, np.nan)),
        (np.linspace(0, 1e-30, N), np.linspace(1, 1 + 1e-15, N)),
        (np.where(RNG.random(N) < 0.1, np.nan, 1e30), RNG.random(N)),
    ],
)
def test_they_can_be_drawn(count, radius, entropy):
    """Without a warning, and each point is shown or counted."""
    scores = {"spectral_radius": radius[:count], "entropy": entropy[:count]}
    spectra = np.repeat(radius[:count, None], 3, axis=1)
    spectra = spectra[np.isfinite(spectra[:, 0])]
    figures = draw_all(Contents({}, Origin(), scores, spectra, []))
    for name, figure in figures.items():
        assert "<svg" in as_svg(name, figure)
    finite = np.isfinite(radius[:count]) & np.isfinite(entropy[:count])
    collections = figures["radius-and-entropy"].axes[0].collections
    if count < N:
        assert sum(len(np.asarray(c.get_offsets())) for c in collections) == finite.sum()
    elif finite.any():
        assert np.sum(np.asarray(collections[0].get_array())) == finite.sum()

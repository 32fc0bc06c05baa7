"""What a small step costs: on a linear map, where the power method is known."""

import numpy as np
import pytest
import torch

from studies.paper import passes
from studies.paper.passes import EIGEN, GRADIENT, PGD, PGD_ONCE
from tests.attacks.conftest import linear


@pytest.fixture(scope="module")
def costs():
    encoder, _ = linear(inputs=12)
    x = torch.rand(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return passes.measure(encoder, x, 0.01, (1, 4, 40), seed=0)


def test_every_attack_gets_to_the_largest_displacement(costs):
    assert costs.relative.max() == 1
    for name in (EIGEN, GRADIENT, PGD, PGD_ONCE):
        spent, means = costs.of(name)
        assert (np.diff(spent) >= 0).all()
        assert means[-1] > 0.99
    assert costs.of(EIGEN)[1][-1] == pytest.approx(1, abs=1e-8)


def test_passes_are_those_of_the_attacks(costs):
    np.testing.assert_array_equal(costs.of(PGD_ONCE)[0], [3, 9, 81])
    np.testing.assert_array_equal(costs.of(PGD)[0], [15, 45, 405])
    _, means = costs.of(PGD)
    assert costs.cheapest(PGD, means[-1]) == (405, means[-1])
    assert costs.cheapest(PGD, 1.1) is None


def test_the_file_comes_back(finished):
    found = passes.read(finished / "digits" / "passes.h5")
    assert found.displacement.shape == (len(found.attack), 5)
    assert found.configuration["eps"] == 0.01
    assert passes.caption(found).startswith("5 held-out images of digits, β = 0.5")
    table = passes.table(found)
    # Columns do not run together.
    assert len({len(line) for line in table.splitlines()[1:]}) == 1

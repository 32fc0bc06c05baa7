"""Seeds by place: the same wherever one starts, and at no cost."""

import time

import torch

import pullback as pb
from pullback.sampling import SeedCounter


def test_seeds_do_not_depend_on_where_one_starts():
    whole = SeedCounter(3).draw(1000)
    for first in (0, 1, 7, 512, 999):
        assert torch.equal(SeedCounter(3, first).draw(1000 - first), whole[first:])
    parts = SeedCounter(3)
    assert torch.equal(torch.cat([parts.draw(n) for n in (1, 0, 600, 399)]), whole)
    assert len(whole.unique()) == 1000
    assert whole.min() >= 0
    assert not torch.equal(SeedCounter(4).draw(1000), whole)


def test_starting_far_away_costs_nothing():
    start = time.perf_counter()
    seeds = SeedCounter(0, 10**15).draw(64)
    assert time.perf_counter() - start < 0.1
    assert torch.equal(seeds, SeedCounter(0, 10**15 - 36).draw(100)[36:])


def test_scores_take_their_place_in_the_data():
    encoder, x = pb.as_map(torch.nn.Linear(40, 20)), torch.rand(6, 40)
    whole = pb.score(encoder, x, k=2, method="golub-kahan", generator=SeedCounter(1, 100))
    part = pb.score(encoder, x[4:], k=2, method="golub-kahan", generator=SeedCounter(1, 104))
    torch.testing.assert_close(part.entropy, whole.entropy[4:])
    torch.testing.assert_close(part.directions, whole.directions[4:])

"""Random numbers: seeds by place, and what each of them draws, on every device alike."""

import math
import time

import pytest
import scipy.stats
import torch

import pullback as pb
from pullback.sampling import SampleStreams, SeedCounter, split_mix


def streams(batch: int, seed: int = 0) -> SampleStreams:
    return SampleStreams(batch, torch.Generator().manual_seed(seed))


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


# As published for S. Vigna's implementation (https://prng.di.unimi.it/splitmix64.c): the first on
# Rosetta Code, "Pseudo-random numbers/Splitmix64", the second in tests of many libraries.
@pytest.mark.parametrize(
    ("seed", "published"),
    [
        (
            1234567,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821,
            ],
        ),
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]),
    ],
)
def test_words_are_those_of_split_mix(seed, published):
    words = split_mix(torch.tensor([seed]), len(published))
    assert [int(word) % 2**64 for word in words[0]] == published


def test_words_are_those_of_integers_without_bounds():
    places = torch.tensor([-(2**63), -1, 0, 1, 2**62 + 12345, 2**63 - 1])
    for place, words in zip(places.tolist(), split_mix(places, 50).tolist(), strict=True):
        for count, word in enumerate(words, 1):
            z = (place + count * 0x9E3779B97F4A7C15) % 2**64
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
            assert word % 2**64 == z ^ z >> 31


@pytest.mark.parametrize("shape", [(1,), (4,), (7,), (3, 5), (2, 2, 3), (0,)])
def test_numbers_depend_on_the_sample_alone(shape):
    like = torch.empty(0)
    batch, whole = streams(5), []
    for _ in range(3):
        whole.append(batch.normal(*shape, like=like))
        assert whole[-1].shape == (5, *shape)
    again, samples = streams(5), torch.tensor([3, 1])
    first = again.normal(*shape, like=like)
    chosen = again.select(samples)
    assert torch.equal(first, whole[0])
    assert torch.equal(chosen.normal(*shape, like=like), whole[1][samples])
    # Those chosen go on by themselves, and so do those that they were chosen from.
    assert torch.equal(again.normal(*shape, like=like), whole[1])
    assert torch.equal(chosen.normal(*shape, like=like), whole[2][samples])


def test_those_left_out_stay_put():
    like = torch.empty(0)
    wanted = torch.tensor([True, False, True])
    some, all_of_them = streams(3), streams(3)
    found, expected = some.normal(9, like=like, where=wanted), all_of_them.normal(9, like=like)
    assert torch.equal(found, expected * wanted.unsqueeze(1))
    following = some.normal(9, like=like)
    assert torch.equal(following[1], expected[1])
    assert torch.equal(following[[0, 2]], all_of_them.normal(9, like=like)[[0, 2]])


def test_many_are_drawn_as_few_are():
    large = streams(300, 5).normal(12289, like=torch.empty(0))
    counter = torch.Generator().manual_seed(5)
    for sample in range(300):
        alone = SampleStreams(1, counter).normal(12289, like=torch.empty(0))
        if sample in (0, 41, 42, 43, 299):
            assert torch.equal(alone[0], large[sample])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_are_those_of_float32_in_every_dtype(dtype):
    found = streams(2).normal(1000, like=torch.empty(0, dtype=dtype))
    assert found.dtype == dtype
    assert torch.equal(found, streams(2).normal(1000, like=torch.empty(0)).to(dtype))


def test_numbers_are_the_same_to_the_last_bit_on_every_device(device):
    here, there = (
        streams(9).normal(6, 1001, like=torch.empty(0, device=where)) for where in ("cpu", device)
    )
    assert there.device == device
    assert torch.equal(there.cpu(), here)


def test_numbers_are_normal():
    z = streams(64).normal(2**14, like=torch.empty(0, dtype=torch.float64)).flatten()
    count = len(z)
    # Moments of the standard normal distribution, within 4.5 standard errors.
    for order in range(1, 9):
        moment = 0 if order % 2 else math.prod(range(1, order, 2))
        spread = math.sqrt((math.prod(range(1, 2 * order, 2)) - moment**2) / count)
        # 65 536 values reach 4.3 standard deviations: high moments lack what is beyond.
        beyond = 2 * scipy.stats.norm.expect(lambda t, n=order: t**n, lb=4.33) * (1 - order % 2)
        assert abs(z.pow(order).mean() - moment) <= 4.5 * spread + beyond
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 1e-4
    assert z.abs().min() > 0


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64, 12288])
def test_numbers_of_a_sample_are_independent(lag):
    z = streams(32).normal(2**15, like=torch.empty(0, dtype=torch.float64))
    for change in (lambda t: t, lambda t: t.square() - 1, torch.sign):
        a, b = change(z[:, :-lag]), change(z[:, lag:])
        correlation = (a * b).mean() / change(z).square().mean()
        assert correlation.abs() <= 4.5 / math.sqrt(a.numel())


@pytest.mark.parametrize(
    "generator",
    [torch.Generator().manual_seed(1), SeedCounter(1, 10**6)],
    ids=["drawn", "by place"],
)
def test_samples_are_independent(generator):
    z = SampleStreams(256, generator).normal(2**14, like=torch.empty(0, dtype=torch.float64))
    # Of independent rows, all the products beside the diagonal are standard normal together.
    for columns in (z, z.square() - 1, z.sign()):
        gram = columns @ columns.mT / columns.square().mean() / math.sqrt(z.shape[1])
        beside = gram[torch.triu(torch.ones_like(gram, dtype=torch.bool), 1)]
        assert beside.abs().max() <= 5.5
        assert abs(beside.square().mean() - 1) <= 5 * math.sqrt(2 / len(beside))


def test_quadratic_forms_are_distributed_like_chi_squared():
    # What certificates count on: six probes with any eigenvector, dense or of one entry.
    probes = streams(20_000).normal(6, 16, like=torch.empty(0, dtype=torch.float64))
    dense = torch.full((16,), 0.25, dtype=torch.float64)
    single = torch.eye(16, dtype=torch.float64)[3]
    for vector in (dense, single):
        form = (probes @ vector).square().sum(-1)
        assert scipy.stats.kstest(form.numpy(), "chi2", (6,)).pvalue > 1e-4
        missed = (form < 0.381).double().mean()
        assert abs(missed - 1e-3) <= 4.5 * math.sqrt(1e-3 / len(form))

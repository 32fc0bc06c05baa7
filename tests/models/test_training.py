"""Training: it learns, repeats itself, survives interruption, and refuses what it cannot do."""

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models import checkpoints, datasets, losses, training
from models.recipe import LEARNING_RATE, Recipe
from models.vae import MLPVAE, ConvVAE

SMALL: dict[str, Any] = {"hidden": (32, 16), "latent": 4}
SMALL_CONVOLUTIONS: dict[str, Any] = {"filters": (8, 16), "units": (16, 32), "latent": 8}


def digits() -> torch.Tensor:
    return datasets.load("digits").train[:300]


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_reconstructions_beat_the_mean_image(likelihood):
    x = digits()
    vae = training.train(x, beta=0.05, epochs=40, likelihood=likelihood, **SMALL)
    assert not vae.training
    error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
    assert error < 0.6 * (x - x.mean(0)).square().mean()


def test_convolutions_learn_photographs():
    x = datasets.load("photos").train[::10, :, ::4, ::4]
    vae = training.train(x, ConvVAE, epochs=10, batch_size=32, **SMALL_CONVOLUTIONS)
    error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
    assert error < 0.6 * (x - x.mean(0)).square().mean()


def test_a_larger_beta_keeps_the_code_closer_to_the_prior():
    x = digits()
    divergences = []
    for beta in (0.01, 10.0):
        mean, logvar = training.train(x, beta=beta, epochs=10, **SMALL).encode(x)
        divergences.append((mean.square() + logvar.exp() - 1 - logvar).sum(1).mean())
    assert divergences[1] < 0.1 * divergences[0]


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    x = digits()[:50]
    before = torch.random.get_rng_state()
    one, two, three = (
        training.train(x, epochs=2, seed=seed, **SMALL).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["mean.weight"], three["mean.weight"])


def test_a_last_batch_of_one_image_is_survived():
    assert training.train(digits()[:9], epochs=1, batch_size=4, **SMALL)


def test_the_schedules():
    constant, cosine = (Recipe(epochs=7, schedule=name) for name in ("constant", "cosine"))
    assert {constant.rate(epoch) for epoch in range(7)} == {LEARNING_RATE}
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=LEARNING_RATE)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for epoch in range(7):
        assert cosine.rate(epoch) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


OPTIONS = [
    {},
    {"objective": "tcvae", "likelihood": "bernoulli", "schedule": "cosine"},
    {"mixup": 1.0, "learned_variance": True},
    {"mixup": 0.5, "objective": "tcvae", "likelihood": "bernoulli"},
    {"mixup": 0.1, "mixup_form": "code"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "plain")
def test_every_objective_learns(options):
    x = digits()
    vae = training.train(x, beta=0.05, epochs=40, batch_size=32, **options, **SMALL)
    error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
    assert error < 0.7 * (x - x.mean(0)).square().mean()


@pytest.mark.parametrize("form", ["text", "code"])
def test_the_forms_of_mixup_against_their_definitions(form):
    vae, x = MLPVAE((1, 8, 8), **SMALL).eval(), digits()[:6]
    plain = Recipe(beta=0.5).loss(vae, x, len(x), torch.Generator().manual_seed(3))
    mixed = Recipe(beta=0.5, mixup=2.0, mixup_form=form)
    found = mixed.loss(vae, x, len(x), torch.Generator().manual_seed(3))

    g = torch.Generator().manual_seed(3)
    pairs = losses.draw_pairs(6, g, one_weight=form == "code")
    pairs_of_codes = losses.draw_pairs(6, g, one_weight=True) if form == "code" else pairs
    mean, logvar = vae.encode(torch.cat([x, pairs.mix(x)]))
    noise = torch.randn(mean.shape, generator=g)
    z = mean + noise * (0.5 * logvar).exp()
    z_m = pairs_of_codes.mix(z[:6])
    # The plain objective with the noise that the images had here.
    expected = losses.negative_elbo(x, vae.decode(z[:6]), mean[:6], logvar[:6], 0.5)
    for i in range(6):
        latent = (z_m[i] - z[6 + i]).norm()
        visible = (vae.decode(z_m)[i] - pairs.mix(x)[i]).norm()
        if form == "text":
            expected = expected + 2 / 6 * (latent + visible)
        else:
            q = Normal(mean[6 + i], (0.5 * logvar[6 + i]).exp())
            prior = Normal(torch.zeros_like(mean[0]), 1.0)
            divergence = kl_divergence(q, prior).sum()
            expected = expected + 2 / 6 * (latent**2 + visible**2 + divergence)
    torch.testing.assert_close(found, expected)
    assert found > plain


def test_a_checkpoint_without_mixup_says_nothing_of_its_form():
    assert "mixup_form" not in Recipe().facts
    assert Recipe(mixup=1.0).facts["mixup_form"] == "text"
    assert set(Recipe(mixup=1.0).facts) == set(vars(Recipe()))


def test_mixup_makes_the_code_more_linear():
    x, g = digits(), torch.Generator().manual_seed(1)
    pairs = losses.draw_pairs(len(x), g)
    gaps = []
    for weight in (0.0, 1.0):
        vae = training.train(x, beta=0.05, epochs=30, batch_size=32, mixup=weight, **SMALL)
        z, mixed = vae.encode(x)[0], vae.encode(pairs.mix(x))[0]
        gaps.append(((pairs.mix(z) - mixed).norm(dim=1) / z.norm(dim=1)).mean())
    assert gaps[1] < 0.8 * gaps[0]


def test_a_learned_variance_explains_the_images_better():
    x = digits()
    densities = []
    for learned in (False, True):
        vae = training.train(x, epochs=30, learned_variance=learned, **SMALL)
        mean, logvar = vae.likelihood(vae.encode(x)[0])
        # The sum of squared errors is the log-density for variance ½.
        logvar = torch.full_like(mean, 0.5).log() if logvar is None else logvar
        densities.append(-losses.negative_log_likelihood(x, mean, "gaussian", logvar).mean())
    assert densities[1] > densities[0] + 10


class Interrupted:
    """Images whose reading is interrupted the n-th time that some are asked for."""

    def __init__(self, images: torch.Tensor, reads: int) -> None:
        self.images, self.reads, self.shape = images, reads, images.shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return self.images[index]

    def __repr__(self) -> str:
        return "digits"


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "plain")
@pytest.mark.parametrize("reads", [4, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(options, reads, tmp_path):
    x, path = digits()[:75], tmp_path / "new" / "vae.safetensors"
    settings: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 20,
        "seed": 2,
        "checkpoint": path,
        **options,
        **SMALL,
    }
    straight = training.train(Interrupted(x, 12), **settings | {"checkpoint": None})
    # Four steps an epoch: cut short after one epoch, after nearly two and in the third.
    with pytest.raises(KeyboardInterrupt):
        training.train(Interrupted(x, reads), **settings)
    assert [file.name for file in path.parent.iterdir()] == ["vae.safetensors.partial"]
    left = 12 - 4 * (reads // 4)
    resumed = training.train(Interrupted(x, left), **settings)
    assert [file.name for file in path.parent.iterdir()] == ["vae.safetensors"]
    expected = straight.state_dict()
    for vae in (resumed, training.load(path)):
        found = vae.state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in expected | found)
    # What is finished is not trained again.
    again = training.train(Interrupted(x, 0), **settings).state_dict()
    assert all(torch.equal(expected[name], again[name]) for name in expected | again)


def test_other_settings_do_not_go_on_from_a_partial_training(tmp_path):
    path, x = tmp_path / "vae.safetensors", digits()[:40]
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 40, "checkpoint": path, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        training.train(Interrupted(x, 1), **settings)
    kept = (tmp_path / "vae.safetensors.partial").read_bytes()
    changes: list[tuple[dict[str, Any], str]] = [
        (
            {"beta": 2.0},
            r"partial holds another training: training\.beta was 1\.0 and is 2\.0; repeat",
        ),
        ({"latent": 5}, r"another training: architecture\.latent was 4 and is 5;"),
        ({"facts": {"dataset": "x"}}, r"another training: training\.dataset was absent and is x;"),
    ]
    for change, message in changes:
        with pytest.raises(FileExistsError, match=message):
            training.train(Interrupted(x, 3), **settings | change)
    with pytest.raises(FileExistsError, match=r"another training: training\.images was .* and is "):
        training.train(x, **settings)
    assert (tmp_path / "vae.safetensors.partial").read_bytes() == kept
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_trained_over_another_file(tmp_path):
    path, x = tmp_path / "vae.safetensors", digits()[:40]
    settings: dict[str, Any] = {"epochs": 1, "checkpoint": path, **SMALL}
    training.train(x, **settings)
    finished = path.read_bytes()
    with pytest.raises(
        FileExistsError, match=r"holds another training: training\.seed was 0 and is 1; "
    ):
        training.train(x, seed=1, **settings)
    with pytest.raises(FileExistsError, match=r"holds another training: training\.images was"):
        training.train(x + 1e-3, **settings)
    assert path.read_bytes() == finished
    path.write_text("text")
    with pytest.raises(
        FileExistsError, match=r"is no safetensors file: .*; give the checkpoint an"
    ):
        training.train(x, **settings)
    assert path.read_text() == "text"
    path.unlink()
    partial = tmp_path / "vae.safetensors.partial"
    partial.write_text("text")
    with pytest.raises(FileExistsError, match="is no unfinished training: it cannot be read; del"):
        training.train(x, **settings)
    torch.save([1], partial)
    with pytest.raises(FileExistsError, match="is no unfinished training: it holds something else"):
        training.train(x, **settings)


def test_a_training_that_diverges_keeps_the_last_good_weights(tmp_path, monkeypatch):
    path, x = tmp_path / "vae.safetensors", digits()[:40]
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 20, "checkpoint": path, **SMALL}
    good = training.train(x, epochs=2, batch_size=20, **SMALL)
    monkeypatch.setattr(Recipe, "rate", lambda self, epoch: 3e-3 if epoch < 2 else 1e30)
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is (nan|inf) at step 2 of epoch 3; the last good weights are in .*partial",
    ):
        training.train(x, **settings)
    assert not path.exists()
    kept = training.load(checkpoints.partial_path(path))
    assert not kept.training
    assert torch.equal(kept.state_dict()["mean.weight"], good.state_dict()["mean.weight"])
    checkpoints.partial_path(path).unlink()
    with pytest.raises(FloatingPointError, match="nan at step 1 of epoch 1; no epoch was finished"):
        training.train(x * torch.nan, **settings)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused():
    x = digits()[:10]
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"beta must be positive, got {beta}"):
            training.train(x, beta=beta, **SMALL)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"beta": float("inf")}, "beta must be positive, got inf; it has to be finite, too"),
        ({"mixup": -0.5}, r"the weight of mixup must be 0 or more, and finite, got -0\.5"),
        ({"mixup": float("nan")}, "the weight of mixup must be 0 or more, and finite, got nan"),
        ({"epochs": 0}, "at least 1 epoch and 2 images per step are needed, got 0 and 128"),
        ({"batch_size": 1}, "at least 1 epoch and 2 images per step are needed, got 10 and 1$"),
        ({"seed": -1}, "the seed must lie between 0 and .*, got -1"),
        ({"likelihood": "poisson"}, "likelihood='poisson' is not one of 'gaussian', 'bernoulli'"),
        ({"objective": "vae"}, "objective='vae' is not one of 'elbo', 'tcvae'"),
        ({"schedule": "step"}, "schedule='step' is not one of 'constant', 'cosine'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"likelihood": "bernoulli", "learned_variance": True}, "'bernoulli' has no variance to"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            training.train(x, **options, **SMALL)
    with pytest.raises(ValueError, match=r"images must be float32 numbers .*, got torch.uint8"):
        training.train(x.byte(), **SMALL)
    with pytest.raises(ValueError, match="at least 2 images are needed, got 1"):
        training.train(x[:1], **SMALL)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1 of epoch 1"):
        training.train(x * torch.nan, epochs=3, **SMALL)

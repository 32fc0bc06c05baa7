"""Several trainings of the same β: what is kept of them, and ratios between them."""

import numpy as np
import pytest

from studies.paper import records, seeds
from studies.paper.scores import by_name
from studies.paper.vaes import Subject, Vaes
from tests.studies.shell import run


def test_means_over_images_are_kept_of_every_training(finished):
    found = seeds.read(finished / "digits" / "seeds.h5")
    np.testing.assert_array_equal(found.beta, [0.01, 0.01, 10, 10] * 2)
    np.testing.assert_array_equal(found.mixup, [0, 1] * 4)
    np.testing.assert_array_equal(found.seed, [0] * 4 + [1] * 4)
    assert found.mean.shape == found.deviation.shape == (8, len(found.score))
    # The first seed without mixup is that of beta.h5, the other that of mixup.h5.
    beta, mixup = (records.read(finished / "digits" / f"{name}.h5") for name in ("beta", "mixup"))
    for record, row, at in ((beta, 0, 0), (beta, 2, 3), (mixup, 1, 0), (mixup, 3, 1)):
        for name, values in by_name(record.select([at]).arrays).items():
            column = found.score.index(name)
            assert found.mean[row, column] == pytest.approx(values.mean(), rel=1e-5)
            assert found.deviation[row, column] == pytest.approx(values.std(), rel=1e-4)
    assert found.pixel_variance == pytest.approx(mixup.pixel_variance)
    # It is small: numbers of trainings, not of images.
    assert (finished / "digits" / "seeds.h5").stat().st_size < 60_000


def test_ratios_are_between_trainings(finished):
    found = seeds.read(finished / "digits" / "seeds.h5")
    logs = [np.log(found.means("ρ", 10, mixed=mixed)) for mixed in (True, False)]
    ratio = found.ratio("ρ", 10)
    assert ratio is not None
    assert ratio.value == pytest.approx(np.exp(logs[0].mean() - logs[1].mean()))
    assert ratio.low < ratio.value < ratio.high
    assert found.ratio("ρ", 3.0) is None
    variance, freedom = found.scatter("ρ", found.betas)
    assert freedom == 2
    expected = sum(
        np.mean([np.log(found.means("ρ", beta, mixed=m)).var(ddof=1) for beta in found.betas])
        for m in (True, False)
    )
    assert variance == pytest.approx(expected)


def test_a_vae_that_is_named_twice_is_no_other_training(tmp_path):
    subjects = [Subject(1.0), Subject(2.0), Subject(1.00000001)]
    names = [subject.name for subject in Vaes(str(tmp_path)).repeated(subjects, 2)]
    assert names == ["beta-1", "beta-2", "beta-1-seed-1", "beta-2-seed-1"]


def test_the_authors_mixup_with_chosen_betas(fast, tmp_path, capsys):
    command = ["seeds", "--mixup-form", "code", "--betas", "[0.5]", "--seeds", 2, "--quick"]
    assert run(*command, "--out", tmp_path) == 0
    assert "with/without" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("seeds*")} == {
        f"seeds-code.{kind}" for kind in ("h5", "png", "pdf")
    }
    names = {path.stem for path in (tmp_path / "models").iterdir()}
    plain, mixed = "beta-0.5", "beta-0.5-mixup-1-code"
    assert names == {plain, mixed, f"{plain}-seed-1", f"{mixed}-seed-1"}

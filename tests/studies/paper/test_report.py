"""The report: verdicts on records for which they are known, and the page as a whole."""

import dataclasses
import re

import numpy as np
import pytest

from studies.paper import claims, gp, published, records, sections
from studies.paper.archives import find
from studies.paper.claims_beta import broken_at
from studies.paper.displacements import Displacements
from studies.paper.measurement import PUBLISHED
from studies.paper.optimality_report import EIGEN, PGDS
from studies.paper.records import Record
from studies.paper.vaes import unusual
from studies.paper.verdicts import CONFIRMED, REFUTED, UNDECIDED
from tests.studies.paper.made import (
    CONFIGURATION,
    EXTENT,
    MANY,
    THREE,
    VARIANCE,
    archives_of,
    made,
    times,
    trained,
    verdicts,
)
from tests.studies.shell import run

pytestmark = pytest.mark.usefixtures("quick_curves")


@pytest.mark.parametrize(("power", "verdict"), [(-1, CONFIRMED), (0, UNDECIDED), (1, REFUTED)])
def test_trends_of_the_scores(power, verdict):
    betas = np.geomspace(0.01, 10, 20)
    column = (betas**power)[:, None] * np.ones(40)
    record = made(betas, eigenvalues=column[..., None], entropy=column)
    found = verdicts(claims.claims(archives_of(beta=record)))
    assert found["ρ falls as β grows"] == verdict
    assert found["S falls as β grows: S of λ/Σλ"] == verdict


@pytest.mark.parametrize("slope", [0.02, 0.0001])
def test_where_reconstructions_break(slope):
    # The error rises linearly with δ, so that it has risen by 0.01 at δ = 0.01 / slope.
    steps = made([1])["delta"]
    record = made([0.1, 1, 10], attack_error_mean=0.3 + slope * steps, reconstruction_error=0.3)
    where = broken_at(record, 1)
    assert where.shape == (3, 5)
    expected = 0.01 / slope if slope > 0.001 else np.inf
    np.testing.assert_allclose(where, expected, rtol=1e-2)


def test_breaking_at_the_smallest_step_or_between_two():
    record = made([1, 2], attack_error_mean=0.5, reconstruction_error=[[0.1], [0.495]])
    np.testing.assert_allclose(broken_at(record, 0), [[0.1] * 5, [np.inf] * 5])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_vae_without_a_usable_radius_leaves_claims_undecided(value):
    flat = made(MANY)
    lower = times(np.where(np.isclose(MANY, 1), value, 0.5), flat)
    found = claims.claims(archives_of(beta=lower, combined=lower))
    found += claims.claims(archives_of(beta=flat, mixup=lower))
    of_radius = [one for one in found if re.search("ρ falls|lowers ρ|metric has a", one.text)]
    assert {one.verdict.word for one in of_radius} == {UNDECIDED}
    assert "no curve, as ρ is not a positive number everywhere" in of_radius[0].evidence


def test_tables_mark_where_the_code_has_collapsed():
    flat = made([0.1, 1, 10], reconstruction_error=[[0.1], [0.1], [VARIANCE]])
    mixed = made([0.1, 10], mixup=1.0, reconstruction_error=[[0.1], [VARIANCE]])
    found = archives_of(beta=flat, mixup=mixed, trainings={"text": trained((1, 1, 1), 0.1)})
    for lines in (
        sections.scores_table(flat, VARIANCE),
        sections.ratios_table(flat, flat, VARIANCE),
        sections.mixup_tables(found),
    ):
        rows = [line for line in lines if line.startswith("| ") and "10" in line.split(" | ")[0]]
        assert rows
        assert all("10 (collapsed)" in row for row in rows if "| 10 |" not in row)
        assert any("10 (collapsed)" in row for row in rows)
    assert "collapsed" not in "".join(sections.scores_table(flat, None))


def test_whether_scores_say_which_images_are_damaged():
    rho = np.geomspace(1, 2, 40)
    error = 0.1 + np.stack([rho, -rho, np.zeros(40), rho], axis=-1)
    record = made([1, 2], eigenvalues=rho[:, None], attack_error=error, reconstruction_error=0.1)
    found = [one for one in claims.claims(archives_of(beta=record)) if "suffer more" in one.text]
    assert [one.verdict.word for one in found] == [CONFIRMED, REFUTED, UNDECIDED, CONFIRMED]
    assert all(one.source == "extension" for one in found)


@pytest.mark.parametrize(("rise", "word"), [(0.05, CONFIRMED), (0.01, UNDECIDED), (0.001, REFUTED)])
def test_whether_reconstructions_differ_significantly(rise, word):
    error = 0.1 * np.random.default_rng(0).gamma(50, 1 / 50, 40)
    record = made(
        MANY,
        reconstruction_error=error,
        attack_error_mean=error.mean() + rise,
        attack_error_std=error.std(),
    )
    few = record.select(THREE)
    for many, said in ((record, word), (None, UNDECIDED)):
        found = verdicts(claims.claims(archives_of(distance=few, beta=many)))
        (text,) = (text for text in found if "differ significantly" in text)
        assert found[text] == said


def test_a_rise_of_errors_knows_the_scatter_of_trainings(monkeypatch):
    """0.008 of one training is not under 0.01 if trainings of neighbouring β differ by a third."""
    monkeypatch.setattr(gp, "STEPS", 50)

    def risen(betas, rise):
        error = np.full((len(betas), 40), 0.1)
        after = (error.mean(1) + rise)[:, None, None] * np.ones((1, 5, len(EXTENT.steps)))
        zero = np.zeros_like(after)
        return made(
            betas, reconstruction_error=error, attack_error_mean=after, attack_error_std=zero
        )

    few, betas = risen([0.1, 1, 10], 0.008), np.geomspace(0.01, 10, 20)
    for scatter, word in ((0.01, REFUTED), (0.3, UNDECIDED)):
        noise = np.exp(scatter * np.random.default_rng(0).normal(size=20))
        many = archives_of(distance=few, beta=risen(betas, 0.008 * noise))
        found = [one for one in claims.claims(many) if "differ significantly" in one.text]
        assert [one.verdict.word for one in found] == [word]
        assert "the scatter of trainings around their curve added" in found[0].evidence


@pytest.mark.parametrize(("power", "word"), [(-1, CONFIRMED), (1, REFUTED), (0, UNDECIDED)])
def test_whether_the_code_moves_further_the_smaller_beta_is(power, word):
    def moved(betas):
        values = np.array(betas)[:, None, None] ** power * np.ones((1, 5, len(EXTENT.steps)))
        return made(betas, latent_distance_mean=values)

    text, three = "the code moves further the smaller β is, at the same δ", moved([0.1, 1, 10])
    many = archives_of(distance=three, beta=moved(np.geomspace(0.01, 10, 20)))
    assert verdicts(claims.claims(many))[text] == word
    # Three trainings are in order by chance, one time in six.
    assert verdicts(claims.claims(archives_of(distance=three)))[text] == UNDECIDED


@pytest.mark.parametrize(
    ("share", "word"), [(0.9999, CONFIRMED), (0.99, UNDECIDED), (0.9, REFUTED)]
)
def test_whether_the_eigenvector_is_the_best_small_step(share, word):
    noise = 0.004 * np.random.default_rng(0).normal(size=100)
    eigen = np.minimum(share + noise, 0.9999) if word != CONFIRMED else np.full(100, share)
    found = Displacements(
        clipping=("unclipped",),
        attack=(EIGEN, *PGDS),
        eps=np.array([0.01]),
        sample=np.arange(100),
        displacement=np.stack([eigen, np.ones(100), np.full(100, 0.5)])[None, :, None],
        eigenvalue=np.ones(100),
        n_products=np.ones((1, 3, 1), dtype=int),
    )
    (claim,) = claims.claims(archives_of(optimality=(found, {})))
    assert claim.verdict.word == word


def test_a_ratio_of_metrics_knows_the_scatter_of_trainings(monkeypatch):
    """Above 1 for all images of each VAE, but by less than VAEs of neighbouring β differ."""
    monkeypatch.setattr(gp, "STEPS", 50)
    betas = np.geomspace(0.01, 10, 10)
    flat = made(betas)
    for scatter, word in ((0.001, CONFIRMED), (0.5, UNDECIDED)):
        factor = 1.1 * np.exp(scatter * np.random.default_rng(1).normal(size=(10, 1, 1)))
        scaled = Record(flat.arrays | {"eigenvalues": factor * flat["eigenvalues"]}, CONFIGURATION)
        found = verdicts(claims.claims(archives_of(beta=flat, combined=scaled)))
        assert found["the combined metric has a larger ρ than the flat one"] == word


def test_captions_say_what_is_not_as_in_the_paper():
    record, trainings = made(MANY), trained((1, 1, 1), 0.1)
    for facts in (record.configuration, trainings.configuration):
        assert unusual(facts) == ""
    other = CONFIGURATION | {"objective": "tcvae", "learned_variance": True}
    found = archives_of(
        beta=Record(record.arrays, other),
        trainings={"text": dataclasses.replace(trainings, configuration=other)},
    )
    lines = sections.what_was_run(found)
    assert all("1 epochs, objective tcvae, variance learned" in line for line in lines[:2])


def test_what_the_paper_does_not_say_is_an_extension(finished):
    (archives,) = find(finished)
    sources = {claim.text: claim.source for claim in claims.claims(archives)}
    text = "the step along the eigenvector is the best ℓ₂ attack for small ‖η‖"
    assert sources[text] == "Thm 3.2"
    assert sources["the same if images are clipped to [0, 1]"] == "extension"


def test_beside_published_scores(tmp_path):
    betas = np.geomspace(0.01, 10, 5)
    record = made(betas, mean_radius=(1 / betas)[:, None])
    kind = "MSE(x_c, g(f(x_c))), δ√λη"
    ours = published.errors(record, kind)
    steps = record.steps(0.5, clipped=False)
    np.testing.assert_array_equal(ours, record["corrupted_error_mean"][..., steps])
    path = tmp_path / "scores.csv"
    names = [f"mse_dir{r + 1}_step{d:.4f}" for r in range(5) for d in PUBLISHED]
    rows = [",".join(["beta", "radius_mean", "entropy_mean", *names])]
    for i, beta in enumerate(betas):
        numbers = [beta, 1 / beta, 2, *ours[i].ravel()]
        rows.append(",".join(f"{number:.9g}" for number in numbers))
    path.write_text("\n".join(rows))
    read = published.read(path)
    np.testing.assert_allclose(read.error, ours, rtol=1e-8)
    assert published.closest_errors(record, read) == kind
    both = published.matched(record, read)
    assert both is not None
    text = "\n".join(published.section(*both))
    assert "| radius: s₁, the largest singular value of J_μ | 1.000 | 1 | 1 | 1 |" in text
    assert f"| {kind} | 1.000 | 1 | 1 | 1 |" in text
    assert published.matched(made([2, 3]), read) is None
    path.write_text("beta,radius_mean\n1,2\n")
    with pytest.raises(ValueError, match="no column 'mse_dir1"):
        published.read(path)


def test_the_report_is_made_from_archives_alone(finished, tmp_path, capsys):
    page = tmp_path / "new" / "REPORT.md"
    assert run("report", "--archives", finished, "--out", page) == 0
    text = page.read_text()
    assert "| ρ falls as β grows | " in text
    assert "12 held-out images, metric of Eq. 11" in text
    shown = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line[:2] == "!["]
    assert len(shown) == 10
    for name in shown:
        assert (page.parent / name).stat().st_size > 1000
    capsys.readouterr()
    assert run("report", "--archives", finished, "--out", page, "--reference", "none.csv") == 1
    assert "no published scores at none.csv" in capsys.readouterr().err
    assert run("report", "--archives", tmp_path, "--out", page) == 1
    assert "holds an archive" in capsys.readouterr().err
    assert run("report", "--archives", finished, "--out", tmp_path) == 1
    assert "ends in .md" in capsys.readouterr().err


def test_a_damaged_archive_is_named(finished, tmp_path, capsys):
    folder = tmp_path / "archives" / "digits"
    folder.mkdir(parents=True)
    whole = (finished / "digits" / "beta.h5").read_bytes()
    (folder / "beta.h5").write_bytes(whole[: len(whole) // 2])
    assert run("report", "--archives", folder.parent, "--out", tmp_path / "R.md") == 1
    assert "beta.h5 is damaged" in capsys.readouterr().err
    (folder / "beta.h5").write_bytes((finished / "digits" / "seeds.h5").read_bytes())
    assert run("report", "--archives", folder.parent, "--out", tmp_path / "R.md") == 1
    assert "beta.h5 has no attack_error, " in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.h5"):
        records.read(tmp_path / "none.h5")

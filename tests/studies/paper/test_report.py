"""The report: verdicts on records for which they are known, and the page as a whole."""

from pathlib import Path

import numpy as np
import pytest

from studies.paper import claims, published, records
from studies.paper.archives import Archives
from studies.paper.claims import CONDITIONAL, CONFIRMED, REFUTED, broken_at
from studies.paper.measurement import COORDINATES, MEASURED, PUBLISHED, coordinates, effort
from studies.paper.mixup import matches, same_beta
from studies.paper.records import LAYOUT, Record
from tests.studies.shell import run

EXTENT = effort(40, quick=False)
CONFIGURATION = {"dataset": "made", "epochs": 1, "metric": "expected"}


def made(betas, mixup=0.0, samples=40, **columns):
    """A record of positive noise, with some columns given."""
    random = np.random.default_rng(0)
    arrays = coordinates(samples, EXTENT)
    sizes = {key: len(arrays[key]) for key in ("sample", "rank", "step", "marked")}
    sizes["vae"] = len(betas)
    arrays |= {"vae": np.arange(len(betas)), "beta": np.array(betas, dtype=float)}
    arrays["mixup"] = np.full(len(betas), mixup)
    for key in MEASURED:
        shape = [sizes[dimension] for dimension in LAYOUT[key].dimensions]
        arrays[key] = random.gamma(50, 1 / 50, shape)
    assert set(arrays) == set(LAYOUT) == {*COORDINATES, *MEASURED, "vae", "beta", "mixup"}
    arrays |= {key: np.broadcast_to(values, arrays[key].shape) for key, values in columns.items()}
    return Record(arrays, CONFIGURATION)


def verdicts(found):
    return {claim.text: claim.verdict for claim in found}


@pytest.mark.parametrize(("power", "verdict"), [(-1, CONFIRMED), (0, CONDITIONAL), (1, REFUTED)])
def test_trends_of_the_scores(power, verdict):
    betas = np.geomspace(0.01, 10, 20)
    column = (betas**power)[:, None] * np.ones(40)
    record = made(betas, eigenvalues=column[..., None], entropy=column)
    found = verdicts(claims.claims(_archives(beta=record)))
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


def test_mixup_is_matched_by_reconstruction():
    without = made([0.1, 1, 10], reconstruction_error=[[0.1], [0.2], [0.4]])
    mixed = made([0.1], mixup=1.0, reconstruction_error=0.21)
    (match,) = matches(mixed, without)
    assert (match.beta, match.matched_beta, match.mixup) == (0.1, 1, 1)
    assert match.ratios["MSE"].value == pytest.approx(1.05)
    expected = mixed.radius[0].mean() / without.radius[1].mean()
    assert match.ratios["ρ"].value == pytest.approx(expected)
    (match,) = same_beta(mixed, without)
    assert match.matched_beta == 0.1
    assert match.ratios["MSE"].value == pytest.approx(2.1)


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, CONFIRMED), (1, CONDITIONAL), (3, REFUTED)])
def test_mixup_and_the_combined_metric(factor, verdict):
    flat, other = made([0.1, 1, 10]), made([0.1, 1, 10], mixup=1.0)
    scaled = Record(other.arrays | {"eigenvalues": factor * flat["eigenvalues"]}, CONFIGURATION)
    found = verdicts(claims.claims(_archives(beta=flat, mixup=scaled, combined=scaled)))
    assert found["mixup lowers ρ, at the same β"] == verdict
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(verdict, verdict)
    assert found["the combined metric has a larger ρ than the flat one"] == opposite


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
    assert "| radius: s₁, the largest singular value of J_μ | 1 [1, 1] | 1 | 1 | 1 |" in text
    assert f"| {kind} | 1 [1, 1] | 1 | 1 | 1 |" in text
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
    assert len(shown) == 8
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
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.h5"):
        records.read(tmp_path / "none.h5")


def _archives(**found):
    return Archives(Path("made"), **found)

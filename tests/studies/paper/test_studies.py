"""The paper's studies from the shell: their files, what a second run does, what is refused."""

import numpy as np
import pytest
import xarray
from PIL import Image

import pullback as pb
from models import datasets
from models.checkpoints import load
from studies import pictures
from studies.cli import with_values
from studies.paper import records, vaes
from studies.paper.combined import radii
from studies.paper.records import LAYOUT
from tests.models.test_celeba import make_folder
from tests.studies.paper.conftest import STUDIES
from tests.studies.shell import run


def test_every_study_leaves_archive_and_figure(finished):
    folder = finished / "digits"
    for name in (*set(STUDIES) - {"gallery"}, "gallery-beta-0.2", "reconstructions"):
        assert (folder / f"{name}.h5").exists()
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 300
    with xarray.open_dataset(folder / "beta.h5", engine="h5netcdf") as opened:
        assert set(LAYOUT) == set(opened.variables)
        assert opened.eigenvalues.dims == ("vae", "sample", "rank")
        np.testing.assert_allclose(opened.beta, [0.01, 0.1, 1, 10])
        assert (opened.relative_residual <= 1e-3).all()


@pytest.mark.parametrize("name", STUDIES)
def test_the_same_again_draws_without_computing(finished, fast, monkeypatch, capsys, name):
    monkeypatch.setattr(vaes.Vaes, "get", None)
    monkeypatch.setattr(vaes.Vaes, "held_out", None)
    folder = finished / "digits"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/*.h5")}
    assert run(name, "--quick", "--out", folder) == 0
    assert "figure     " in capsys.readouterr().out
    # Redrawn whatever it was measured with: no data set of that name is looked for.
    beta = ["--beta", 0.2] if name == "gallery" else []
    assert run(name, "--redraw", "--out", folder, "--dataset", "mnist", *beta) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("**/*.h5")}


def test_parts_are_shared(finished):
    folder = finished / "digits"
    beta, distance = (records.read(folder / f"{name}.h5") for name in ("beta", "distance"))
    np.testing.assert_array_equal(beta.radius[[0, 2]], distance.radius[:2])
    found = {path.stem for path in (folder / "parts").iterdir()}
    plain = {"beta-0.01", "beta-0.1", "beta-1", "beta-10"}
    mixed = {"beta-0.01-mixup-1", "beta-10-mixup-1", "beta-1-mixup-1"}
    # What beta.h5 holds is not measured again for the comparison of seeds.
    again = {f"marked-beta-{beta}{mixup}" for beta in ("0.01", "10") for mixup in ("", "-mixup-1")}
    seeds = {f"{name}-seed-1" for name in again}
    first = {name for name in again if name.endswith("mixup-1")}
    combined = {f"combined-{name}" for name in plain}
    assert found == plain | {"beta-7.5"} | mixed | first | seeds | combined


def test_an_interrupted_study_goes_on(fast, tmp_path, monkeypatch):
    collected = []

    def stop_at_third(self, subject, get=vaes.Vaes.get):
        collected.append(subject.beta)
        if len(collected) == 3:
            raise KeyboardInterrupt
        return get(self, subject)

    monkeypatch.setattr(vaes.Vaes, "get", stop_at_third)
    assert run("beta", "--quick", "--out", tmp_path) == 130
    assert not (tmp_path / "beta.h5").exists()
    assert run("beta", "--quick", "--out", tmp_path) == 0
    assert collected == [0.01, 0.1, 1, 1, 10]


def test_several_seeds(fast, tmp_path, capsys):
    assert run("beta", "--quick", "--count", 2, "--seeds", 2, "--out", tmp_path) == 0
    record = records.read(tmp_path / "beta.h5")
    np.testing.assert_array_equal(record["beta"], [0.01, 10, 0.01, 10])
    np.testing.assert_array_equal(record["seed"], [0, 0, 1, 1])
    assert not np.array_equal(record.radius[0], record.radius[2])
    np.testing.assert_array_equal(record.of_one_seed().radius, record.radius[:2])
    names = {"beta-0.01", "beta-10", "beta-0.01-seed-1", "beta-10-seed-1"}
    assert {path.stem for path in (tmp_path / "models").glob("*.safetensors")} == names


def test_other_objectives(fast, tmp_path):
    options = ["--objective", "tcvae", "--learned-variance", "--quick", "--count", 2]
    assert run("combined", *options, "--out", tmp_path) == 0
    vae = load(tmp_path / "models" / "beta-0.01.safetensors")
    assert vae.config["learned_variance"]
    record = records.read(tmp_path / "combined.h5")
    assert record.configuration["objective"] == "tcvae"
    # The decoder's standard deviation takes part in its metric (App. B).
    encoder, decoder = vaes.encoder_of(vae), vaes.decoder_of(vae)
    x = datasets.load("digits").test[:12]
    scores = pb.score(encoder, x, k=1, decoder=decoder)
    np.testing.assert_allclose(record.radius[0], scores.spectral_radius, rtol=1e-3)
    assert run("combined", *options[2:], "--out", tmp_path) == 1


def test_celeba_is_attacked(fast, tmp_path, capsys):
    folder = make_folder(tmp_path / "faces")
    (folder / "img_align_celeba" / "000012.jpg").write_text("not an image")
    command = ["gallery", "--dataset", "celeba", "--data", folder, "--epochs", 1, "--out", tmp_path]
    assert run(*command) == 1
    assert "000012.jpg cannot be read as an image" in capsys.readouterr().err
    assert run(*command, "--skip-bad", "--shown", 2) == 0
    assert pictures.read(tmp_path / "gallery-beta-1.h5").pixels.shape == (6, 1, 3, 64, 64)


def test_other_settings_are_refused(finished, fast, capsys):
    folder = finished / "digits"
    for option, message in (
        (("--seed", 1), "seed was 0 and is 1"),
        (("--count", 3), "vaes was [[0.01, 0.0], [0.1, 0.0]"),
        (("--images", 7), "images was 12 and is 7"),
    ):
        assert run("beta", "--quick", "--out", folder, *option) == 1
        assert message in capsys.readouterr().err
    assert run("gallery", "--quick", "--out", folder, "--seed", 1) == 1
    assert "holds other numbers: seed was 0 and is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("beta", "--images", "1"), "images=1 must be at least 2"),
        (("beta", "--count", "0"), "count=0 β"),
        (("beta", "--epochs", "0"), "at least 1 epoch"),
        (("beta", "--dataset", "cifar"), "dataset='cifar' is not one of"),
        (("beta", "--redraw"), "there is no"),
        (("mixup", "--mixed", "0"), "mixed=0 must be at least 1"),
        (("beta", "--seeds", "0"), "seeds=0 must be at least 1"),
        (("beta", "--objective", "vae"), "objective='vae' is not one of"),
        (("seeds", "--mixup-form", "theirs"), "mixup_form='theirs' is not one of"),
        (("passes", "--eps", "0"), "eps=0.0 must be a positive"),
        (("gallery", "--shown", "0"), "shown=0 must be at least 1"),
        (("gallery", "--beta", "-1"), "beta must be positive, got -1"),
        (("distance", "--dataset", "mnist", "--data", "nowhere"), "no IDX files of mnist"),
        (("distance", "--device", "abacus"), "abacus"),
    ],
)
def test_bad_input_is_refused(fast, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    assert run(*arguments, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.h5"))


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("beta", "--out", tmp_path / "file") == 1
    assert "is a file; name a folder" in capsys.readouterr().err


def test_ratios_of_radii_are_of_the_same_images(finished):
    flat, combined = (records.read(finished / f"digits/{name}.h5") for name in ("beta", "combined"))
    for found, record in zip(radii(combined, flat), (combined, flat), strict=True):
        np.testing.assert_array_equal(found, record.radius)
    with pytest.raises(ValueError, match="not of the same β"):
        radii(combined.select([0]), flat)


def test_pictures_come_back(finished, tmp_path):
    found = pictures.read(finished / "digits" / "gallery-beta-0.2.h5")
    assert found.title.startswith("What two steps along the top eigenvector do: digits, β = 0.2")
    assert found.pixels.shape == (6, 4, 1, 8, 8)
    assert found.row[:2] == ("original", "reconstruction")
    assert found.row[2].startswith("δ = 0.5223\n‖δλη‖ = ")
    assert ((found.pixels >= 0) & (found.pixels <= 1)).all()
    pictures.write(tmp_path / "new" / "p.h5", found, {"shown": 4})
    again = pictures.read(tmp_path / "new" / "p.h5")
    assert (again.row, again.title) == (found.row, found.title)
    np.testing.assert_array_equal(again.pixels, found.pixels)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["train", "--skip-bad"], ["train", "--skip_bad", "true"]),
        (["beta", "--quick", "--out", "a-b"], ["beta", "--quick", "true", "--out", "a-b"]),
        (
            ["beta", "--quick", "false", "--redraw=true"],
            ["beta", "--quick", "false", "--redraw=true"],
        ),
        (
            ["beta", "--out=x--quick", "--lowest", "-1"],
            ["beta", "--out=x--quick", "--lowest", "-1"],
        ),
    ],
)
def test_switches_need_no_value(given, taken):
    assert with_values(given) == taken


def test_the_studies_are_listed(capsys):
    assert run() == 0
    printed = capsys.readouterr().out
    for name in (*STUDIES, "report", "benchmark", "digits", "sweep", "train"):
        assert f"  {name} " in printed
    assert printed.index("Figure 10") < printed.index("Others:")

"""The comparison of attacks on tiny encoders: its numbers, its file, its refusals."""

import json

import numpy as np
import pytest
import torch
import xarray
from PIL import Image

import pullback as pb
from pullback.attacks import EigenAttack, PGDAttack
from studies.paper import displacements, optimality, optimality_report, vaes
from studies.paper.optimality import Effort, measure
from tests.attacks.conftest import linear
from tests.conftest import SmoothEncoder

EFFORT = Effort(eps=(0.1, 1.0, 5.0), steps=6, restarts=2)
PGDS = ("PGD", "PGD from eigenvector")


@pytest.fixture
def x():
    return torch.rand(4, 1, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def few():
    """Little training of a small VAE, few norms and steps; counts how often it is measured."""
    calls: list[int] = []

    def counted(*arguments):
        calls.append(1)
        return measure(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vaes, "EPOCHS", 1)
        patch.setattr(optimality, "QUICK", EFFORT)
        patch.setattr(optimality, "QUICK_IMAGES", 5)
        patch.setattr(optimality, "measure", counted)
        yield calls


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    """A folder with the results of a run."""
    folder = tmp_path_factory.mktemp("optimality")
    optimality.optimality(str(folder), quick=True)
    assert few.pop() == 1
    return folder


def test_ratios_are_those_of_the_attacks(tmp_path, x):
    encoder = pb.as_map(SmoothEncoder(12, 3), returns="mean_logvar")
    measured = measure(encoder, x, EFFORT, seed=3)
    displacements.write(tmp_path / "f.h5", measured, {"seed": 3})
    found, configuration = displacements.read(tmp_path / "f.h5")
    assert configuration == {"seed": 3}
    ratio = found.ratio("eigenvector", PGDS)

    def moved(attack):
        return attack(x, generator=torch.Generator().manual_seed(3)).latent_distance

    for i, clip in enumerate((None, (0, 1))):
        for j, eps in enumerate(EFFORT.eps):
            pgd = PGDAttack(encoder, eps=eps, clip=clip, steps=6, restarts=2)
            warm = PGDAttack(encoder, eps=eps, clip=clip, steps=6, restarts=1, start="eigenvector")
            best = torch.maximum(moved(pgd), moved(warm))
            expected = moved(EigenAttack(encoder, eps=eps, clip=clip)) / best
            np.testing.assert_allclose(ratio[i, j], expected.numpy(), rtol=1e-5)
    assert (found.n_products[:, found.attack.index("PGD")] == 2 * 13).all()
    assert (ratio <= 1 + 1e-6).all()
    scores = pb.score(encoder, x, k=1)
    np.testing.assert_allclose(found.eigenvalue, scores.spectral_radius.numpy(), rtol=1e-5)


def test_a_linear_map_is_linear_everywhere():
    encoder, A = linear(inputs=12)
    x = torch.rand(3, 12, dtype=torch.float64)
    found = measure(encoder, x, Effort(EFFORT.eps, steps=50), seed=0)
    np.testing.assert_allclose(found.ratio("eigenvector", PGDS)[0], 1, rtol=1e-4)
    np.testing.assert_allclose(found.relative()[0, found.attack.index("eigenvector")], 1, rtol=1e-6)
    np.testing.assert_allclose(found.eigenvalue, torch.linalg.matrix_norm(A, 2) ** 2, rtol=1e-6)
    text = optimality_report.table(
        found, dict.fromkeys(("images", "dataset", "beta", "epochs", "steps", "restarts"), 1)
    )
    assert "the linearisation holds up to eps = 5: median 1.0000 at the largest eps tried" in text


@pytest.mark.parametrize(
    ("medians", "said"),
    [
        ((1, 0.992, 0.5), "up to eps = 1: median 0.9920 there, 0.5000 at 5"),
        ((1, 0.98, 1), "up to eps = 0.1: median 1.0000 there, 0.9800 at 1"),
        ((0.98, 1, 1), "holds at no eps tried: the median ratio is 0.9800"),
    ],
)
def test_how_far_the_linearisation_holds(medians, said):
    assert said in optimality_report.verdict(np.array(EFFORT.eps), np.array(medians))


def test_the_same_again_computes_nothing(few, finished, capsys):
    left = {"optimality.h5", "optimality.png", "optimality.pdf", "models"}
    assert {path.name for path in finished.iterdir()} == left
    for options in ({"quick": True}, {"redraw": True, "dataset": "mnist"}):
        (finished / "optimality.png").unlink()
        optimality.optimality(str(finished), **options)
        printed = capsys.readouterr().out
        table = optimality_report.table(*displacements.read(finished / "optimality.h5"))
        assert printed.startswith("5 held-out images of digits, β = 0.5, 1 epochs; PGD with 6")
        assert printed.startswith(table)
        with Image.open(finished / "optimality.png") as picture:
            assert picture.width > 600
    assert not few


def test_another_configuration_is_refused(few, finished):
    with pytest.raises(FileExistsError, match="seed was 0 and is 1; give another folder"):
        optimality.optimality(str(finished), quick=True, seed=1)
    assert not few


def test_what_else_is_refused(few, tmp_path):
    with pytest.raises(FileNotFoundError, match="to read"):
        optimality.optimality(str(tmp_path), redraw=True)
    with pytest.raises(ValueError, match="images=0 must be at least 1"):
        optimality.optimality(str(tmp_path), images=0)
    (tmp_path / "optimality.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="is damaged"):
        optimality.optimality(str(tmp_path), redraw=True)
    assert not few


def test_xarray_opens_the_file(finished):
    with xarray.open_dataset(finished / "optimality.h5", engine="h5netcdf") as data:
        assert data["displacement"].dims == ("clipping", "attack", "eps", "sample")
        assert data["displacement"].sel(clipping="clipped", attack="PGD", eps=1.0).shape == (5,)
        assert data["eigenvalue"].attrs["units"] == "1"
        assert json.loads(data.attrs["configuration"])["images"] == 5

"""A run in xarray: lazily, from shards or the archive, and what NumPy gives for each index."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray

from pullback import archive
from pullback.archive import reading
from tests.archive.test_run import make_run
from tests.shell import run

KEYS = [
    np.s_[3],
    np.s_[-1, 1],
    np.s_[1:6],
    np.s_[1:8:3, ::2],
    np.s_[::-2],
    np.s_[:, 0],
    np.s_[4:4],
    np.s_[[0, 5, 2]],
]


@pytest.fixture(params=["shards", "archive"])
def scored(request, tmp_path):
    table = make_run(tmp_path, count=9)
    if request.param == "archive":
        archive.merge(tmp_path)
    return tmp_path, table


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indices_give_what_numpy_gives(scored, key):
    folder, table = scored
    np.testing.assert_array_equal(
        archive.open(folder)["eigenvalues"][key], table["eigenvalues"][key]
    )


def test_it_is_the_dataset_that_xarray_opens(scored):
    folder, table = scored
    data = archive.open(folder).load()
    assert data["file"].dtype.kind == "U"
    np.testing.assert_array_equal(data["file"], [name.decode() for name in table["file"]])
    with xarray.open_dataset(archive.merge(folder), engine="h5netcdf") as other:
        xarray.testing.assert_equal(data.drop_vars("file"), other.drop_vars("file").load())
        assert json.loads(data.attrs["configuration"]) == json.loads(other.attrs["configuration"])
        for name in data.data_vars:
            assert data[name].attrs.get("units") == other[name].attrs.get("units")


def test_nothing_is_read_before_it_is_looked_at(scored, monkeypatch):
    folder, table = scored
    seen = []
    tables = reading.tables

    def watched(path, layout, names, samples=None):
        seen.append((list(names), samples))
        return tables(path, layout, names, samples)

    monkeypatch.setattr(reading, "tables", watched)
    data = archive.open(folder)
    chosen = data["eigenvalues"].sel(sample=5)
    assert seen == []
    np.testing.assert_array_equal(chosen, table["eigenvalues"][5])
    assert seen == [(["eigenvalues"], range(5, 6))]


def test_missing_shards_are_gaps(tmp_path):
    table = make_run(tmp_path, count=9)
    (tmp_path / "shards" / "part-000001.h5").unlink()
    data = archive.open(tmp_path)
    np.testing.assert_array_equal(data["sample"], [0, 1, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(data["trace"].sel(sample=[1, 4]), table["trace"][[1, 4]])


def test_damage_is_found_where_it_is_looked_at(tmp_path):
    make_run(tmp_path, count=9)
    (tmp_path / "shards" / "part-000001.h5").write_bytes(b"no HDF5 file")
    data = archive.open(tmp_path)
    assert np.isfinite(data["trace"][0])
    with pytest.raises(ValueError, match=r"part-000001\.h5 is damaged"):
        data["trace"][2].load()


def test_without_xarray_one_sentence(tmp_path):
    make_run(tmp_path)
    code = (
        "import sys; sys.modules['xarray'] = None\n"
        "import pullback as pb\n"
        "try:\n    pb.archive.open(sys.argv[1])\n"
        "except ImportError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'pullback[xarray]'" in done.stdout


def test_a_dataset_reaches_another_process(tmp_path):
    table = make_run(tmp_path)
    for dataset in (archive.open(tmp_path), archive.open(tmp_path).isel(sample=slice(1, 3))):
        for again in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
            np.testing.assert_array_equal(again.trace, table["trace"][dataset.sample])


def test_one_column_by_its_name(tmp_path):
    table = make_run(tmp_path)
    np.testing.assert_array_equal(archive.read(tmp_path, "trace")["trace"], table["trace"])
    with pytest.raises(TypeError, match=r"samples must be a slice, such as slice\(7, 8\), got 3"):
        archive.read(tmp_path, "trace", 3)  # type: ignore[arg-type]


def test_info_names_the_extremes(tmp_path, capsys):
    table = make_run(tmp_path, count=9)
    (tmp_path / "shards" / "part-000000.h5").unlink()
    assert run("info", tmp_path) == 0
    shown = capsys.readouterr().out
    radius = table["spectral_radius"][2:]
    for what, place in (("least", radius.argmax() + 2), ("most", radius.argmin() + 2)):
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{what} robust"))
        assert line.endswith(f"of image {place}, bild-ä{place}.png")

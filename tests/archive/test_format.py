"""Files are in the format of HDF5 1.10, which tools of the last ten years read."""

import shutil
import subprocess

import numpy as np
import pytest

from pullback import archive
from pullback.archive.hdf5 import LIBVER
from tests.archive.test_run import columns, make_run


def output(tool, *arguments):
    """What a program of Debian's hdf5-tools or netcdf-bin prints; it must not complain."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def files(tmp_path):
    make_run(tmp_path)
    archive.merge(tmp_path)
    return [tmp_path / "archive.h5", *sorted((tmp_path / "shards").iterdir())]


def test_h5dump_reads_every_value(files):
    for file in files:
        assert "DATASET" in output("h5dump", file)
    shown = output("h5dump", "-d", "trace", "-m", "%.9g", "-y", "-w", "1", files[0])
    data = shown.split("DATA {")[1].split("}")[0]
    found = np.array([float(number) for number in data.replace(",", " ").split()], np.float32)
    np.testing.assert_array_equal(found, columns()["trace"])


def test_ncdump_finds_dimensions_and_reads_every_value(files):
    for file in files:
        header = output("ncdump", "-h", file)
        for name, column in archive.COLUMNS.items():
            assert f"{name}({', '.join(column.dimensions)}) ;" in header
        output("ncdump", file)


def test_the_bounds_of_the_format_are_those_of_1_10(files):
    assert LIBVER == ("v110", "v110")
    # Version 3 of the superblock came with 1.10; its size of offsets and lengths follows.
    assert {file.read_bytes()[8:11] for file in files} == {bytes([3, 8, 8])}

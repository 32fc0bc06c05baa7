"""Files are held against the manifest, not against themselves: whatever differs is found."""

import shutil

import h5py
import numpy as np
import pytest

from pullback import archive
from pullback.archive.reading import verify
from pullback.archive.shards import list_shards
from tests.archive.test_run import make_run
from tests.shell import score


def delete(file):
    del file["trace"]


def replace(file, **what):
    delete(file)
    file.create_dataset("trace", **what)


def another_length(file):
    replace(file, data=np.zeros(1, np.float32), chunks=(1,), compression="gzip")


def another_type(file):
    replace(file, data=file["entropy"][...].astype(np.float64))


def another_shape(file):
    replace(file, data=np.zeros((2, 1), np.float32))


def without_checksums(file):
    replace(file, data=file["entropy"][...])


def nothing_there(file):
    kept = {"chunks": (2,), "compression": "gzip", "shuffle": True, "fletcher32": True}
    replace(file, shape=(2,), dtype=np.float32, **kept)


def a_group(file):
    delete(file)
    file.create_group("trace")


def a_type(file):
    delete(file)
    file["trace"] = np.dtype("f4")


def soft_link(file):
    delete(file)
    file["trace"] = h5py.SoftLink("/entropy")


def hard_link(file):
    delete(file)
    file["trace"] = file["entropy"]


def external_link(file):
    delete(file)
    file["trace"] = h5py.ExternalLink("part-000002.h5", "trace")


def more(file):
    file["more"] = np.zeros(3)


def other_samples(file):
    file["sample"][...] = [0, 1]


def other_ranks(file):
    file["rank"][...] = [3, 2, 1]


def no_configuration(file):
    del file.attrs["configuration"]


def no_origin(file):
    del file.attrs["origin"]


def another_origin(file):
    file.attrs["origin"] = np.bytes_(b"[]")


def a_number_for_origin(file):
    del file.attrs["origin"]
    file.attrs["origin"] = 3


TAMPERED = {
    delete: "it lacks trace",
    another_length: r"'trace' is float32 of shape \(1,\), and should be float32 of shape \(2,\)",
    another_type: r"'trace' is float64 of shape \(2,\), and should be float32",
    another_shape: r"'trace' is float32 of shape \(2, 1\), and should be",
    without_checksums: "'trace' is not stored in chunks with checksums",
    nothing_there: "'trace' is not stored whole",
    a_group: "'trace' is a group, not a data set",
    a_type: "'trace' is a datatype, not a data set",
    soft_link: "'trace' is a link, not a data set",
    external_link: "'trace' is a link, not a data set",
    hard_link: "one of its data sets has two names",
    more: "it holds 'more', which is no part of the run",
    other_samples: "'sample' does not count from 2 to 3",
    other_ranks: "'rank' does not count from 1 to 3",
    no_configuration: "it lacks the attribute 'configuration'",
    no_origin: "it lacks the attribute 'origin'",
    another_origin: "its attribute 'origin' is damaged$",
    a_number_for_origin: "its attribute 'origin' is damaged$",
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_what_was_changed_in_a_shard_is_found(tmp_path, tamper):
    make_run(tmp_path)
    shard = list(list_shards(tmp_path, archive.read_manifest(tmp_path)))[1]
    with h5py.File(shard.path, "r+") as file:
        tamper(file)
    for look in (lambda: verify(shard.path, shard.layout), lambda: archive.merge(tmp_path)):
        with pytest.raises(ValueError, match=rf"part-000001\.h5 is damaged: .*{TAMPERED[tamper]}"):
            look()
    with pytest.raises(ValueError, match=r"part-000001\.h5 is damaged"):
        archive.read(tmp_path, ["entropy"])


@pytest.mark.parametrize("tamper", [delete, another_type, a_group, soft_link, hard_link, no_origin])
def test_what_was_changed_in_the_archive_is_found(tmp_path, tamper):
    make_run(tmp_path)
    with h5py.File(archive.merge(tmp_path), "r+") as file:
        tamper(file)
    with pytest.raises(ValueError, match=r"archive\.h5 is damaged"):
        archive.read(tmp_path)


def test_an_archive_of_another_run_is_not_believed(tmp_path):
    make_run(tmp_path / "one")
    make_run(tmp_path / "two", k=2)
    shutil.copy(archive.merge(tmp_path / "two"), tmp_path / "one")
    with pytest.raises(ValueError, match=r"archive\.h5 belongs to another run"):
        archive.read(tmp_path / "one")


def test_files_that_do_not_say_where_they_come_from_are_made_again(place, caplog):
    assert score("declared", "run", "--shard-size", 10) == 0
    before = archive.read("run")
    for path in ("run/archive.h5", "run/shards/part-000001.h5"):
        with h5py.File(path, "r+") as file:
            no_origin(file)
        assert score("declared", "run", "--shard-size", 10) == 0
        archive.verify("run")
    assert "part-000001.h5 is damaged: it lacks the attribute 'origin'" in caplog.text
    for name, values in archive.read("run").items():
        np.testing.assert_array_equal(values, before[name])

"""What an archive holds, that it opens in xarray, and that damage does not go unnoticed."""

import json

import h5py
import numpy as np
import pytest
import xarray

from pullback import archive
from pullback.archive import reading, writing
from pullback.archive.atomic import write_text
from pullback.archive.columns import FORMAT, OPTIONAL, choose_columns
from pullback.archive.origin import Origin
from pullback.archive.reading import verify
from pullback.archive.shards import list_shards

FIRST = "part-000000.h5"


def columns(count=5, k=3, n=8):
    g = np.random.default_rng(0)
    table = {
        name: g.normal(size=(count, k) if column.dimensions[1:] == ("rank",) else count)
        for name, column in archive.COLUMNS.items()
        if column.dtype is None and column.dimensions[-1] in ("sample", "rank")
    }
    table = {name: array.astype(np.float32) for name, array in table.items()}
    table["converged"] = np.ones((count, k), np.int8)
    table["failed"] = np.zeros(count, np.int8)
    table["latent_mean"], table["latent_std"] = g.random((2, count, 4), dtype=np.float32)
    table["label"] = np.arange(count)
    table["file"] = np.array([f"bild-ä{i}.png".encode() for i in range(count)])
    table["directions"] = g.normal(size=(count, k, n)).astype(np.float32)
    return table


def make_manifest(count=5, shard_size=2, k=3):
    manifest = {"format": FORMAT, "shard_size": shard_size, "versions": {}}
    manifest |= {"data": {"name": "images.npy", "count": count, "event_shape": [8]}}
    manifest |= {"encoder": {"weights": "0123", "outputs": 6, "returns": "mean"}}
    manifest |= {"score": {"k": k, "seed": 0, "dtype": "float32", "method": "auto"}}
    manifest |= {"sizes": {"rank": k, "input": 8, "character": 15, "latent": 4}}
    return manifest | {"columns": choose_columns("float32", OPTIONAL)}


def make_run(folder, count=5, shard_size=2, k=3):
    manifest = make_manifest(count, shard_size, k)
    (folder / "shards").mkdir(parents=True)
    write_text(folder / "manifest.json", json.dumps(manifest))
    table = columns(count, k)
    for shard in list_shards(folder, manifest):
        part = {name: array[shard.start : shard.stop] for name, array in table.items()}
        writing.write(shard.path, shard.layout, [part], Origin([{"command": "made"}], "0123"))
    return table


def test_a_merged_archive_opens_in_xarray(tmp_path):
    table = make_run(tmp_path)
    path = archive.merge(tmp_path)
    with xarray.open_dataset(path, engine="h5netcdf") as data:
        assert dict(data.sizes) == {"sample": 5, "rank": 3, "input": 8, "latent": 4}
        np.testing.assert_array_equal(data["sample"], np.arange(5))
        np.testing.assert_array_equal(data["rank"], [1, 2, 3])
        for name, column in archive.COLUMNS.items():
            assert data[name].dims == tuple(d for d in column.dimensions if d != "character")
            assert data[name].attrs.get("units") == (None if name == "file" else "1")
            assert data[name].attrs["long_name"] == column.long_name
            found = (
                np.char.encode(data[name].astype(str), "utf-8") if name == "file" else data[name]
            )
            np.testing.assert_array_equal(found, table[name])
        assert json.loads(data.attrs["configuration"])["score"]["k"] == 3
        assert data["entropy"].sel(sample=3).item() == table["entropy"][3]


def test_storage_of_every_column(tmp_path):
    make_run(tmp_path)
    with h5py.File(archive.merge(tmp_path)) as file:
        for name in archive.COLUMNS:
            dataset = file[name]
            assert dataset.compression == "gzip"
            assert dataset.shuffle
            assert dataset.fletcher32
            if dataset.dtype.kind == "f":
                assert np.isnan(dataset.fillvalue)
            for axis, dimension in enumerate(archive.COLUMNS[name].dimensions):
                assert dataset.dims[axis][0] == file[dimension]


def test_reading_from_shards_and_from_the_archive(tmp_path):
    table = make_run(tmp_path)
    from_shards = archive.read(tmp_path)
    archive.merge(tmp_path)
    for found in (from_shards, archive.read(tmp_path)):
        assert found.keys() == table.keys()
        for name, array in table.items():
            np.testing.assert_array_equal(found[name], array)
    assert archive.read(tmp_path, ["trace", "unknown"]).keys() == {"trace"}


@pytest.mark.parametrize("shard_size", [512, 700, 1024, 1100])
def test_merging_keeps_all_values_whether_chunks_fit_or_not(tmp_path, shard_size):
    table = make_run(tmp_path, 1100, shard_size)
    with (
        h5py.File(archive.merge(tmp_path)) as file,
        h5py.File(tmp_path / "shards" / FIRST) as first,
    ):
        for name in table:
            stored = [file[name].id.get_chunk_info(0).size, first[name].id.get_chunk_info(0).size]
            assert stored[0] == stored[1]
    for name, array in archive.read(tmp_path).items():
        np.testing.assert_array_equal(array, table[name])
    shard = tmp_path / "shards" / FIRST
    with h5py.File(shard) as file:
        offset = file["entropy"].id.get_chunk_info(0).byte_offset
    with shard.open("r+b") as file:
        file.seek(offset + 100)
        file.write(b"damage")
    with pytest.raises(ValueError, match=f"{FIRST} is damaged"):
        archive.merge(tmp_path)


def test_missing_shards_are_counted(tmp_path):
    make_run(tmp_path)
    (tmp_path / "shards" / "part-000001.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards .*\(first: part-000001.h5\)"):
        archive.merge(tmp_path)
    assert not (tmp_path / "archive.h5").exists()
    assert len(archive.read(tmp_path)["trace"]) == 3


def test_damage_is_noticed_and_nothing_is_published(tmp_path):
    make_run(tmp_path)
    shard = tmp_path / "shards" / "part-000002.h5"
    with h5py.File(shard) as file:
        offset = file["eigenvalues"].id.get_chunk_info(0).byte_offset
    raw = bytearray(shard.read_bytes())
    raw[offset + 3] ^= 0xFF
    shard.write_bytes(raw)
    with pytest.raises(ValueError, match=r"part-000002\.h5 is damaged"):
        archive.merge(tmp_path)
    shard.write_bytes(b"no HDF5 file")
    with pytest.raises(ValueError, match=r"part-000002\.h5 is damaged"):
        archive.read(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "shards"]


def test_damage_anywhere_is_noticed(tmp_path):
    make_run(tmp_path)
    manifest = archive.read_manifest(tmp_path)
    shard = next(list_shards(tmp_path, manifest))
    whole = shard.path.read_bytes()
    before = archive.read(tmp_path)
    for offset in range(0, len(whole) - 64, len(whole) // 150):
        raw = bytearray(whole)
        raw[offset : offset + 64] = bytes(b ^ 0xFF for b in raw[offset : offset + 64])
        shard.path.write_bytes(raw)
        try:
            verify(shard.path, shard.layout)
        except ValueError:
            continue
        # Damage to what is not in use.
        for name, array in archive.read(tmp_path).items():
            np.testing.assert_array_equal(array, before[name])


def test_a_shard_of_another_run_is_not_merged(tmp_path):
    for name, settings in (("one", {}), ("two", {"k": 2}), ("three", {"shard_size": 1})):
        make_run(tmp_path / name, **settings)
    path = tmp_path / "one" / "shards" / "part-000001.h5"
    whole = path.read_bytes()
    for other in ("two", "three"):
        path.write_bytes((tmp_path / other / "shards" / path.name).read_bytes())
        with pytest.raises(ValueError, match=r"part-000001\.h5 belongs to another run"):
            archive.merge(tmp_path / "one")
    path.write_bytes(path.with_name("part-000000.h5").read_bytes())
    with pytest.raises(ValueError, match="'sample' does not count from 2 to 3"):
        archive.merge(tmp_path / "one")
    path.write_bytes(whole)
    assert archive.merge(tmp_path / "one").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"data": 3}', "null"])
def test_manifests_that_say_too_little(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"manifest\.json is damaged: it must hold columns, data, enc"
    ):
        archive.read(tmp_path)


def test_a_manifest_of_another_format(tmp_path):
    make_run(tmp_path)
    text = (tmp_path / "manifest.json").read_text().replace('"format": 2', '"format": 1')
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged: it has format 1; this version reads 2"):
        archive.merge(tmp_path)


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    make_run(tmp_path)
    monkeypatch.setattr(writing, "verify", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        archive.merge(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "shards"]


def test_what_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run of `pullback score`"):
        archive.merge(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        archive.read(tmp_path)


@pytest.mark.parametrize("merged", [False, True])
def test_a_slice_is_what_numpy_takes(tmp_path, merged):
    table = make_run(tmp_path, count=9)
    if merged:
        archive.merge(tmp_path)
    for samples in (slice(3, 4), slice(1, 6), slice(-2, None), slice(None), slice(7, 100)):
        found = archive.read(tmp_path, ["sample", *archive.COLUMNS], samples)
        np.testing.assert_array_equal(found.pop("sample"), np.arange(9)[samples])
        assert found.keys() == table.keys()
        for name, array in table.items():
            np.testing.assert_array_equal(found[name], array[samples])
    with pytest.raises(ValueError, match=r"without a step, got slice\(0, 9, 2\)"):
        archive.read(tmp_path, samples=slice(0, 9, 2))


def test_a_slice_of_an_unfinished_run_says_which_images_there_are(tmp_path):
    make_run(tmp_path, count=9)
    (tmp_path / "shards" / "part-000001.h5").unlink()
    found = archive.read(tmp_path, ["sample"], slice(1, 6))
    np.testing.assert_array_equal(found["sample"], [1, 4, 5])


def test_a_slice_opens_no_more_files_than_it_needs(tmp_path):
    table = make_run(tmp_path, count=9)
    (tmp_path / "shards" / "part-000004.h5").write_bytes(b"no HDF5 file")
    found = archive.read(tmp_path, ["trace"], slice(2, 5))
    np.testing.assert_array_equal(found["trace"], table["trace"][2:5])


def test_a_slice_without_its_chunk_is_refused(tmp_path):
    """HDF5 reads NaN where nothing is stored."""
    make_run(tmp_path, count=9)
    path = archive.merge(tmp_path)
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        old = file["trace"]
        kept = {"shape": old.shape, "dtype": old.dtype, "chunks": old.chunks, "fillvalue": np.nan}
        del file["trace"]
        file.create_dataset("trace", **kept, **reading.FILTERS)
    with pytest.raises(ValueError, match="'trace' is not stored whole"):
        archive.read(tmp_path, ["trace"], slice(4, 5))

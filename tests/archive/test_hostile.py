"""Files made to mislead: refused in a sentence, in little memory, and without reading others."""

import json
import os
import resource
import zlib

import h5py
import numpy as np
import pytest

from pullback import archive
from pullback.archive import reading
from pullback.archive.shards import list_shards
from tests.archive.test_run import make_manifest, make_run
from tests.shell import refused, run

CHECKED = {"compression": "gzip", "shuffle": True, "fletcher32": True}
MEBIBYTE = 2**20


def virtual(file, elsewhere):
    layout = h5py.VirtualLayout(shape=(2,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(elsewhere), "trace", shape=(2,))
    file.create_virtual_dataset("trace", layout)


def external(file, elsewhere):
    file.create_dataset("trace", (2,), "f4", external=[(str(elsewhere), 0, 8)])


def link_out(file, elsewhere):
    file["trace"] = h5py.ExternalLink(str(elsewhere), "trace")


def huge(file, elsewhere):
    file.create_dataset("trace", (10**15,), "f4", chunks=(10**9,), **CHECKED)


def huge_chunk(file, elsewhere):
    file.create_dataset("trace", (2,), "f4", chunks=(10**9,), maxshape=(None,), **CHECKED)


def bomb(file, elsewhere):
    """A chunk of 2 numbers which unpacks to half a gigabyte."""
    dataset = file.create_dataset("trace", (2,), "f4", chunks=(2,), **CHECKED)
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(2**29), 9) + bytes(4))


def text_of_any_length(file, elsewhere):
    file.create_dataset("trace", (2,), h5py.string_dtype())


def compound(file, elsewhere):
    file.create_dataset("trace", (2,), np.dtype([(f"f{i}", "f8") for i in range(100)]))


def huge_text(file, elsewhere):
    file["trace"] = file["entropy"][...]
    del file.attrs["configuration"]
    file.attrs["configuration"] = np.zeros(300 * MEBIBYTE, "S1")


@pytest.mark.parametrize(
    "make",
    [virtual, external, link_out, huge, huge_chunk, bomb, text_of_any_length, compound, huge_text],
)
def test_hostile_data_sets(tmp_path, make, monkeypatch):
    make_run(tmp_path)
    elsewhere = tmp_path / "elsewhere.h5"
    with h5py.File(elsewhere, "w") as file:
        file["trace"] = np.zeros(2, np.float32)
    manifest = archive.read_manifest(tmp_path)
    shard = next(list_shards(tmp_path, manifest))
    with h5py.File(shard.path, "r+", libver=("v110", "v110")) as file:
        del file["trace"]
        make(file, elsewhere)
    # As a folder, it makes whatever opens it fail with another message.
    elsewhere.unlink()
    elsewhere.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"part-000000\.h5 (is damaged|belongs to)") as refusal:
        reading.verify(shard.path, shard.layout)
    assert "elsewhere" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def leaves(part, path=()):
    if isinstance(part, dict):
        yield path
        for key in part:
            yield from leaves(part[key], (*path, key))
    else:
        yield path


@pytest.mark.parametrize("value", [None, -1, 0, True, 10**18, 1e400, [], ["a"], {}, "x", [10**30]])
def test_manifests_with_values_that_cannot_be(tmp_path, value):
    """Each place in turn gets the value; what is accepted is read as fast as ever."""
    make_run(tmp_path)
    archive.merge(tmp_path)
    for path in leaves(make_manifest()):
        manifest = {"": make_manifest()}
        part = manifest
        for key in ("", *path)[:-1]:
            part = part[key]
        if part[("", *path)[-1]] == value:
            continue
        part[("", *path)[-1]] = value
        (tmp_path / "manifest.json").write_text(json.dumps(manifest[""]))
        with pytest.raises(ValueError, match=r"is damaged|belongs to another run"):
            archive.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "recursion"),
        ('{"format": ' + "1" * 5000 + "}", "digits"),
        (" " * 2**24 + "{}", "larger than"),
        ("\ufeff{}", "BOM"),
        (f'{{"format": "{"x" * 100_000}"}}', r"it has format 'x{3,30}\.\.\.x{3,30}'; this version"),
    ],
)
def test_manifests_that_are_no_sensible_json(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: .*{message}"):
        archive.read_manifest(tmp_path)


def test_a_file_of_fill_values_only(tmp_path):
    """A billion images that take no place on disk."""
    manifest = make_manifest(10**9, 10**9)
    (tmp_path / "shards").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    shard = next(list_shards(tmp_path, manifest))
    with h5py.File(shard.path, "w", libver=("v110", "v110")) as file:
        file.attrs.create("configuration", np.bytes_(shard.layout.configuration))
        for name, size in {"sample": 10**9, **manifest["sizes"]}.items():
            file.create_dataset(name, (size,), "i8")
        for name, dtype in shard.layout.dtypes.items():
            chunks = shard.layout.chunks(name)
            file.create_dataset(name, shard.layout.shape(name), dtype, chunks=chunks, **CHECKED)
    with pytest.raises(ValueError, match="'sample' does not count from 0 to 999999999"):
        archive.read(tmp_path, ["trace"])


@pytest.mark.parametrize("name", ["manifest.json", "shards/part-000001.h5", "archive.h5"])
def test_pipes_and_links_in_place_of_files(tmp_path, name, capsys):
    make_run(tmp_path / "run")
    archive.merge(tmp_path / "run")
    path = tmp_path / "run" / name
    path.rename(tmp_path / "elsewhere")
    command = "merge" if "part" in name else "info"
    path.symlink_to(tmp_path / "elsewhere")
    refused(capsys, run(command, tmp_path / "run"), f"{path.name} is a symbolic link")
    path.unlink()
    os.mkfifo(path)
    refused(capsys, run(command, tmp_path / "run"), f"{path.name} is no regular file")


def test_a_folder_of_shards_elsewhere(tmp_path, capsys):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "shards").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "shards").symlink_to(tmp_path / "elsewhere")
    refused(capsys, run("info", tmp_path / "run"), "shards is a symbolic link")


def test_names_cannot_write_to_the_terminal(tmp_path, capsys):
    make_run(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    hostile = "\x1b]0;title\x07 \u202e \udc80 \r\n \x9b31m"
    (tmp_path / "manifest.json").write_text(text.replace('"images.npy"', json.dumps(hostile)))
    for file in (tmp_path / "shards").iterdir():
        file.unlink()
    assert run("info", tmp_path) == 0
    shown = capsys.readouterr().out
    assert r"\x1b]0;title\x07 \u202e \udc80 \r\n \x9b31m: 5 images" in shown
    assert run("info", tmp_path / "\x1b[2J") == 1
    assert r"\x1b[2J is no run" in capsys.readouterr().err

"""Differences of two runs: paired where the images are the same, with intervals that hold."""

import json

import numpy as np
import pytest

from pullback import archive
from pullback.archive.atomic import write_text
from pullback.archive.comparison import _MOST_GROUPS, _resample
from pullback.archive.origin import Origin
from pullback.archive.shards import list_shards
from pullback.archive.writing import write
from tests.archive.test_run import columns, make_manifest
from tests.shell import refused, run


def make_run(folder, *, shift=0.0, seed="0", count=40, shard_size=40, sha="0123", k=3, **changed):
    """Entropies 0, 1, 2, …, moved by ``shift`` and a little noise."""
    manifest = make_manifest(count=count, shard_size=shard_size, k=k)
    manifest["score"]["seed"] = int(seed)
    manifest["data"] |= changed
    (folder / "shards").mkdir(parents=True)
    write_text(folder / "manifest.json", json.dumps(manifest))
    noise = 0.1 * np.random.default_rng(int(seed)).normal(size=count)
    table = columns(count, k) | {"entropy": (np.arange(count) + shift + noise).astype(np.float32)}
    for shard in list_shards(folder, manifest):
        part = {name: array[shard.start : shard.stop] for name, array in table.items()}
        write(shard.path, shard.layout, [part], Origin([{"command": "made"}], sha))
    return table


def entropy(comparison):
    (found,) = (d for d in comparison.differences if d.score == "entropy")
    return found


def test_the_same_images_are_paired(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", shift=0.5, seed="1")
    comparison = archive.compare(tmp_path / "a", tmp_path / "b")
    assert comparison.paired
    found, true = entropy(comparison), (b["entropy"] - a["entropy"]).astype(float)
    assert found.value == pytest.approx(true.mean(), rel=1e-6)
    assert found.low < true.mean() < found.high
    # The images differ by far more than the runs do.
    width = 2 * 1.96 * true.std() / np.sqrt(len(true))
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert found.counts == (40, 40)


def test_other_images_are_not_paired(tmp_path):
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", shift=0.5, seed="1", count=50, shard_size=50, sha="4567")
    comparison = archive.compare(tmp_path / "a", tmp_path / "b")
    assert not comparison.paired
    assert "count was 40 and is 50" in comparison.reason
    found = entropy(comparison)
    variances = [t["entropy"].astype(float).var() / len(t["entropy"]) for t in (a, b)]
    width = 2 * 1.96 * np.sqrt(sum(variances))
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert found.counts == (40, 50)


def test_pairs_that_lack_one_are_left_out(tmp_path):
    make_run(tmp_path / "a", shard_size=10)
    make_run(tmp_path / "b", shard_size=10)
    (tmp_path / "a" / "shards" / "part-000000.h5").unlink()
    (tmp_path / "b" / "shards" / "part-000003.h5").unlink()
    found = entropy(archive.compare(tmp_path / "a", tmp_path / "b"))
    assert found.counts == (20, 20)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    make_run(tmp_path / "c", shard_size=10, modified="1")
    make_run(tmp_path / "d", shard_size=20, modified="1")
    assert archive.compare(tmp_path / "c", tmp_path / "d").paired


def test_arrays_with_the_same_size_and_another_date_are_not_taken_for_the_same(tmp_path):
    make_run(tmp_path / "a", modified="1")
    make_run(tmp_path / "b", modified="2", sha="4567")
    assert not archive.compare(tmp_path / "a", tmp_path / "b").paired
    make_run(tmp_path / "copy", modified="2")
    assert archive.compare(tmp_path / "a", tmp_path / "copy").paired
    archive.merge(tmp_path / "copy")
    assert archive.compare(tmp_path / "a", tmp_path / "copy").paired


def test_other_pixels_behind_the_same_facts_are_not_taken_for_the_same(tmp_path):
    """Such as a data set of the same kind, size and first item, of unfinished runs as well."""
    make_run(tmp_path / "a", shard_size=10)
    make_run(tmp_path / "b", shard_size=10, sha="4567")
    comparison = archive.compare(tmp_path / "a", tmp_path / "b")
    assert not comparison.paired
    assert comparison.reason == "their pixels, as read, have different checksums"
    (tmp_path / "b" / "shards" / "part-000003.h5").unlink()
    assert archive.compare(tmp_path / "a", tmp_path / "b").reason == comparison.reason
    make_run(tmp_path / "c", shard_size=20)
    comparison = archive.compare(tmp_path / "a", tmp_path / "c")
    assert not comparison.paired
    assert comparison.reason.startswith("nobody knows whether all images are the same")


def test_scores_of_other_numbers_of_eigenvalues_are_not_compared(tmp_path, caplog):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", k=2)
    compared = {d.score for d in archive.compare(tmp_path / "a", tmp_path / "a").differences}
    assert {"log_volume", "trace"} <= compared
    assert not caplog.text
    found = {d.score for d in archive.compare(tmp_path / "a", tmp_path / "b").differences}
    assert compared - found == {"log_volume"}
    assert "log_volume is of k eigenvalues, and left out: k was 3 and is 2" in caplog.text


def test_one_image_does_not_tell_how_others_differ(tmp_path):
    make_run(tmp_path / "a", count=1)
    make_run(tmp_path / "b", count=1, shift=0.5)
    make_run(tmp_path / "c", sha="4567")
    for one, other in (("a", "b"), ("a", "c"), ("c", "a")):
        found = entropy(archive.compare(tmp_path / one, tmp_path / other))
        assert np.isfinite(found.value)
        assert np.isnan([found.low, found.high]).all()


def test_groups_leave_the_variance_as_it_is():
    generator = np.random.default_rng(0)
    values = generator.normal(size=20 * _MOST_GROUPS)
    assert _resample(values, generator).std() == pytest.approx(len(values) ** -0.5, rel=0.1)


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", shift=0.5, seed="1")
    assert run("compare", "a", "b", "--picture", "difference.svg") == 0
    shown = capsys.readouterr().out
    assert "paired: their pixels, as read, have the same checksum" in shown
    assert "spectral_radius" in shown
    assert "<svg" in (tmp_path / "difference.svg").read_text()
    refused(capsys, run("compare", "a", "nowhere"), "nowhere is no run")
    refused(capsys, run("compare", "a", "b", "--picture", "x.doc"), "must be named .png, .svg")

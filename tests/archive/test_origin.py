"""Who made the numbers, when and with what: in every shard, and gathered in the archive."""

import json
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

import pullback as pb
from pullback import archive
from pullback.archive.origin import Origin, describe_maker, gather, read_origin
from pullback.archive.run import find_failures
from pullback.jobs.datasets import from_dataset
from tests.shell import refused, run, score


def origin_in(path):
    with h5py.File(path) as file:
        return json.loads(file.attrs["origin"]), dict(file.attrs)


def test_every_shard_says_how_it_was_made_and_the_archive_sums_up(place):
    assert score("declared", "run", "--shard-size", 10) == 0
    assert run("merge", "run") == 0
    shards = [origin_in(path)[0] for path in sorted((place / "run" / "shards").iterdir())]
    for shard in shards:
        (maker,) = shard["makers"]
        assert maker["versions"]["h5py"] == h5py.__version__
        assert maker["versions"]["hdf5"] == h5py.version.hdf5_version
        assert maker["versions"]["numpy"] == np.__version__
        assert maker["threads"] == torch.get_num_threads()
        assert maker["device"].startswith("cpu (")
        assert maker["last"].endswith("+00:00")
        assert sys.orig_argv[-1] in maker["command"]
    assert len({shard["data_sha256"] for shard in shards}) == 3
    merged, attributes = origin_in("run/archive.h5")
    assert [maker["shards"] for maker in merged["makers"]] == [3]
    assert bytes(attributes["Conventions"]) == b"CF-1.11"
    assert bytes(attributes["title"]) == b"Robustness scores of data.npz under declared"
    assert merged["makers"][0]["command"] in bytes(attributes["history"]).decode()
    assert archive.read_manifest("run")["score"]["tol"] == 1e-4
    assert archive.read_manifest("run")["score"]["entropy_tol"] == 1e-3


def test_the_checksum_of_the_images_is_that_of_what_was_read(place):
    score("declared", "one", "--shard-size", 10, "--batch-size", 3)
    score("declared", "two", "--shard-size", 10, "--batch-size", 10)
    digests = [origin_in(f"{r}/shards/part-000001.h5")[0]["data_sha256"] for r in ("one", "two")]
    assert digests[0] == digests[1]


def test_makers_that_differ_in_time_alone_are_one():
    def made(command, when):
        maker = {"command": command, "first": when, "last": when, "shards": 1}
        return Origin([maker], "ab", {when: "not finite"})

    gathered = gather([made("a", "2"), made("b", "3"), made("a", "1"), made("a", "4")])
    first, second = gathered.makers
    assert (first["command"], first["first"], first["last"], first["shards"]) == ("a", "1", "4", 3)
    assert (second["command"], second["shards"]) == ("b", 1)
    assert list(gathered.failures) == ["2", "3", "1", "4"]
    again = read_origin(gathered.attributes({"data": {"name": "x"}, "encoder": {}})["origin"])
    assert again == gathered


def test_many_and_long_reasons_are_shortened(tmp_path):
    """Such as an error of anyone's data set with all of an image in it, for every image."""
    pixels = np.random.default_rng(0).random((1200, 3))

    class Items:
        def __len__(self):
            return len(pixels)

        def __getitem__(self, index):
            if index > 1:
                raise KeyError("ä" * 3000)
            return pixels[index]

    encoder = pb.as_map(torch.nn.Linear(3, 3, dtype=torch.float64))
    images = replace(from_dataset(Items()), skip_bad=True)
    pb.score_images(encoder, images, tmp_path, pb.jobs.Settings(k=1), merge=False)
    assert archive.verify(tmp_path).finished == 1
    for _ in range(2):
        failures = find_failures(tmp_path)
        assert list(failures) == [str(i) for i in range(2, 1002)]
        assert {len(reason) for reason in failures.values()} == {1001}
        archive.merge(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "3", "[]", '{"makers": 3}', '{"makers": [3]}', '{"more": 1}', "[" * 10**5]
)
def test_what_is_no_origin(text):
    with pytest.raises(ValueError, match="its attribute 'origin' is damaged"):
        read_origin(text)


def test_a_command_line_that_is_no_utf8(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["pullback", "\udcff", "ä"])
    maker = describe_maker(torch.device("cpu"), [])
    text = Origin([maker]).attributes({"data": {"name": "\udcff"}, "encoder": {}})
    assert read_origin(text["origin"]).makers[0]["command"] == "pullback '\udcff' 'ä'"


def test_latent_mean_and_std(place):
    assert score("declared", "run", "--shard-size", 10, "--batch-size", 4) == 0
    assert run("merge", "run") == 0
    torch.manual_seed(0)  # as the command does, before it calls the factory
    sys.path.insert(0, ".")
    net = __import__("encoders").Pair()
    images = torch.from_numpy(np.load("data.npz")["images"])
    with torch.no_grad():
        mean, logvar = net.double()(images.double())
    columns = archive.read("run")
    np.testing.assert_allclose(columns["latent_mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(columns["latent_std"], (logvar / 2).exp(), rtol=1e-5)
    assert score("declared", "without", "--latents", "false") == 0
    assert "latent_mean" not in archive.read("without")
    assert score("function", "mean") == 0
    assert "latent_std" not in archive.read("mean")
    np.testing.assert_allclose(archive.read("mean")["latent_mean"], 2 * images.flatten(1))


def test_the_std_of_correlated_noise_is_that_of_each_latent(tmp_path):
    factor = torch.rand(3, 3).tril() + torch.eye(3)

    def encode(x):
        return torch.distributions.MultivariateNormal(x[:, :3], scale_tril=factor)

    images = pb.jobs.from_array(tmp_path / "x", np.random.default_rng(0).random((4, 5)))
    pb.score_images(pb.as_map(encode), images, tmp_path / "run", pb.jobs.Settings(k=2))
    expected = (factor @ factor.mT).diagonal().sqrt().expand(4, 3)
    np.testing.assert_allclose(archive.read(tmp_path / "run")["latent_std"], expected, rtol=1e-6)


def test_a_long_code_is_not_stored_unless_asked_for(tmp_path):
    images = pb.jobs.from_array(tmp_path / "x", np.random.default_rng(0).random((2, 1025)))
    for latents, stored in ((None, False), (True, True)):
        run_folder, settings = tmp_path / str(latents), pb.jobs.Settings(k=2, latents=latents)
        pb.score_images(pb.as_map(lambda x: x * 2), images, run_folder, settings)
        assert ("latent_mean" in archive.read(run_folder)) == stored


def test_a_change_that_does_not_change_the_numbers_can_be_accepted(place, capsys, caplog):
    score("declared", "run", "--shard-size", 10)
    (place / "run" / "shards" / "part-000001.h5").unlink()
    (place / "encoders.py").write_text((place / "encoders.py").read_text() + "\n# a comment\n")
    capsys.readouterr()
    way_on = "to go on all the same, give --accept-change encoder.source_sha256"
    refused(
        capsys, score("declared", "run", "--shard-size", 10), "encoder.source_sha256 was", way_on
    )
    before = (place / "run" / "manifest.json").read_bytes()
    more = ("--accept-change", "versions.torch", "encoder.source_sha256")
    assert score("declared", "run", "--shard-size", 10, *more) == 0
    assert "encoder.source_sha256 was" in caplog.text
    assert (place / "run" / "manifest.json").read_bytes() == before
    assert run("merge", "run") == 0
    (accepted,) = origin_in("run/shards/part-000001.h5")[0]["makers"][0]["accepted"]
    assert accepted.startswith("encoder.source_sha256 was")
    assert [m["shards"] for m in origin_in("run/archive.h5")[0]["makers"]] == [2, 1]


@pytest.mark.parametrize("place_in_manifest", ["score.k", "encoder.weights", "format", "nothing"])
def test_what_decides_the_numbers_cannot_be_accepted(place, capsys, place_in_manifest):
    score()
    capsys.readouterr()
    status = score("declared", "run", "-k", 3, "--accept-change", place_in_manifest)
    refused(capsys, status, f"accept_change='{place_in_manifest}' is not one of 'encoder.factory'")

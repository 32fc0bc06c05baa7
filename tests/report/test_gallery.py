"""What is shown of an image: where a step along its first direction leads, and its decodings."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pullback import archive, jobs
from tests.conftest import dense_jacobian, stacked
from tests.report.test_report import read_page
from tests.shell import names, refused, run, score

DECODERS = """
import torch
from torch import nn

class Decoder(nn.Module):
    def __init__(self, pixels=16):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-2, 2, 4 * pixels).reshape(4, pixels))

    def forward(self, z):
        return (z @ self.weight).sigmoid()

def small():
    return Decoder(9)

def decoder():
    return Decoder()

def function():
    return lambda z: z
"""
GIVEN = ("--data", "data.npz", "--encoder", "encoders.py:declared")


@pytest.fixture
def scored(place):
    (place / "decoders.py").write_text(DECODERS)
    assert score("declared", "run", "-k", 2) == 0
    return place


def test_a_step_along_the_first_direction_and_its_reconstruction(scored):
    """Beside a dense float64 metric, a step of either sign, and the decoder itself."""
    given = (*GIVEN, "--decoder", "decoders.py:decoder")
    assert run("report", "run", *given, "--eps", 1.5, "--extremes", 3, "--figures") == 0
    encoder, _ = jobs.EncoderSpec("encoders.py:declared").load()
    radius = archive.read("run")["spectral_radius"]
    order = np.argsort(-radius)
    shown = [*order[:3], *order[:-4:-1]]
    images = torch.from_numpy(jobs.open_images("data.npz").read(0, 30))[shown].double()
    double: Any = encoder.module
    double.double()
    J = dense_jacobian(stacked(encoder), images)
    v = torch.linalg.eigh(J.mT @ J).eigenvectors[..., -1].reshape(images.shape)
    weight = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(4, 16)
    for i, place in enumerate(shown):
        x = images[i : i + 1]
        steps = [(x + sign * 1.5 * v[i]).clamp(0, 1) for sign in (1, -1)]
        code = double.encode(x)[0]
        moved = max(steps, key=lambda step: (double.encode(step)[0] - code).norm())
        for name, expected in (
            ("", x),
            ("-attacked", moved),
            ("-decoded", (code @ weight).sigmoid()),
            ("-attacked-decoded", (double.encode(moved)[0] @ weight).sigmoid()),
        ):
            found = np.asarray(Image.open(f"run/figures/image-{place}{name}.png"))
            wanted = 255 * expected.detach().numpy().reshape(4, 4)
            np.testing.assert_allclose(found, wanted, atol=1)
    pictures = {a["alt"] for a in read_page(scored / "run" / "report.html").named("img")}
    assert len(pictures) == 30
    assert f"reconstruction after the step of image {order[0]}" in pictures


def test_without_a_decoder_the_step_alone(scored, capsys):
    assert run("report", "run", *GIVEN, "--extremes", 1) == 0
    found = read_page(scored / "run" / "report.html")
    kinds = [a["alt"].rpartition(" image ")[0] for a in found.named("img")]
    assert kinds == ["", "first direction of", "after a step of"] * 2
    assert "The step along it has the norm 0.2 before" in found.text
    assert "moves the code by" in found.text
    assert "1 shard, " in found.text
    assert names("run") == ["archive.h5", "manifest.json", "report.html", "shards"]


def test_what_is_missing_or_another(scored, capsys):
    for given, message in (
        (("--decoder", "decoders.py:decoder"), "need the encoder of the run (--encoder)"),
        (("--eps", 2), "need the encoder of the run (--encoder)"),
        (GIVEN[2:], "need the images of the run (--data)"),
        (
            ("--data", "data.npz", "--encoder", "encoders.py:wider"),
            "the encoder is another than that of the run: weights was",
        ),
        ((*GIVEN, "--eps", 0), "eps=0.0 must be a positive"),
        (
            (*GIVEN, "--decoder", "decoders.py:small"),
            "the decoder's mean has shape (9,) for one code; an image has shape (4, 4)",
        ),
        (
            (*GIVEN, "--decoder", "decoders.py:function", "--decoder-weights", "encoders.py"),
            "the factory returned a plain function",
        ),
    ):
        refused(capsys, run("report", "run", *given), message)
    assert "report.html" not in names("run")


def test_another_array_of_the_same_size_is_not_shown(scored, capsys, caplog):
    """Known by the checksums of the shards; a copy, which has another date, is shown."""
    images = np.load("data.npz")["images"]
    np.save("images.npy", images)
    assert score("declared", "plain", "--shard-size", 16, data="images.npy") == 0
    np.save("copy.npy", images)
    np.save("other.npy", images[::-1])
    assert run("report", "plain", "--data", "copy.npy") == 0
    (scored / "plain" / "report.html").unlink()
    refused(
        capsys,
        run("report", "plain", "--data", "other.npy"),
        "other.npy holds other images than the run: images 0 to 15 have another checksum",
    )
    assert "report.html" not in names("plain")
    for shard in (scored / "plain" / "shards").iterdir():
        shard.unlink()
    assert run("report", "plain", "--data", "other.npy") == 0
    assert "nobody knows whether they are the same" in caplog.text


def test_labels_need_not_be_given_again(scored):
    (scored / "folder").mkdir()
    for i, pixels in enumerate(np.load("data.npz")["images"][:4]):
        Image.fromarray(np.uint8(255 * pixels)).save(scored / "folder" / f"{i}.png")
    (scored / "labels.txt").write_text("".join(f"{i}.png {i}\n" for i in range(4)))
    assert score("declared", "labelled", "--labels", "labels.txt", data="folder") == 0
    assert run("report", "labelled", "--data", "folder") == 0

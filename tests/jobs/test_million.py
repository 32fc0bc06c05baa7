"""A run of many images, made by the library's own writer, and what its commands take.

``python -m tests.jobs.test_million 1000000`` makes one of a million images in the current folder,
or goes on with it, and says of each command how long it takes, and how much memory.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch

from pullback import archive, cli
from pullback.archive.manifest import start_or_resume
from pullback.archive.origin import Origin, describe_maker
from pullback.archive.shards import Shard, list_shards
from pullback.archive.writing import write
from pullback.jobs import EncoderSpec, Settings, open_images
from pullback.jobs.preparation import prepare

K, SHARD = 64, 512
ENCODER = """
    import pullback as pb
    from torch import nn

    def encoder():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64))
        return pb.as_map(lambda x: net(x).chunk(2, 1), "mean_logvar")
"""
SCORE = ["score", "--encoder", "encoder.py:encoder", "--data", "images.npy", "-k", str(K)]
SCORE += ["--latents", "false", "--shard-size", str(SHARD), "--out", "run"]
COMMANDS = {
    "resume": [*SCORE, "--no-merge"],
    "merge": ["merge", "run"],
    "resume the merged": SCORE,
    "verify": ["verify", "run"],
    "info": ["info", "run"],
    "report": ["report", "run"],
}
# Runs a command, and says what it has taken. A process starts with the peak of the one that it is
# made from, so that this one is made first, and imports nothing.
MEASURING = """
    import resource, subprocess, sys, time
    begin = time.monotonic()
    subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
    used, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begin
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{wall:.1f} s, {cpu:.1f} s of a core, {peak:.0f} MiB at most")
"""


def make(count: int) -> None:
    """A run in the current folder in which everything is scored: spectra drawn at random."""
    Path("encoder.py").write_text(textwrap.dedent(ENCODER))
    if not Path("images.npy").exists():  # a file with holes, which takes no place
        np.lib.format.open_memmap("images.npy", "w+", np.uint8, (count, 8, 8)).flush()
    encoder, facts = EncoderSpec("encoder.py:encoder").load()
    settings = Settings(k=K, latents=False)
    images = open_images("images.npy")
    manifest = prepare(encoder, images, settings, shard_size=SHARD, provenance=facts)
    start_or_resume(Path("run"), manifest)
    for shard in list_shards("run", manifest):
        if shard.path.exists():
            continue
        origin = Origin([describe_maker(torch.device("cpu"), [])], f"{shard.number:064x}")
        write(shard.path, shard.layout, [_draw(shard)], origin)


def _draw(shard: Shard) -> dict[str, np.ndarray]:
    """Numbers that look like scores, and do not shrink when they are packed."""
    layout, random = shard.layout, np.random.default_rng(shard.number)
    table = {
        name: random.random(layout.shape(name)).astype(dtype)
        for name, dtype in layout.dtypes.items()
        if dtype.kind == "f"
    }
    decay = np.exp(-np.arange(K) / 6)
    spectra = np.exp(random.normal(size=(layout.count, K))) * decay
    table["eigenvalues"] = -np.sort(-spectra, axis=1).astype(np.float32)
    table["spectral_radius"] = table["eigenvalues"][:, 0]
    table["converged"] = np.ones((layout.count, K), np.int8)
    return table | {"failed": np.zeros(layout.count, np.int8)}


def measure(command: list[str]) -> str:
    """What a command takes, in words."""
    measuring = [sys.executable, "-c", textwrap.dedent(MEASURING)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [*measuring, sys.executable, "-m", "pullback", *command]
    return subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=environment
    ).stdout


def test_every_command_on_such_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(1100)
    for command in COMMANDS.values():
        assert cli.main(command) == 0
    assert "1100 of 1100 images have all eigenpairs converged" in capsys.readouterr().out
    manifest = archive.read_manifest("run")
    drawn = [_draw(shard)["eigenvalues"] for shard in list_shards("run", manifest)]
    np.testing.assert_array_equal(archive.read("run")["eigenvalues"], np.concatenate(drawn))
    assert "MiB at most" in measure(["info", "run"])


if __name__ == "__main__":
    make(int(sys.argv[1]))
    for name, command in COMMANDS.items():
        sys.stdout.write(f"{name}: {measure(command)}")
        sys.stdout.flush()

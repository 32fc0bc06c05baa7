"""The Python of the README runs as it stands, and its encoder scores images on the shell."""

import re
import shlex
from pathlib import Path

import numpy as np

from pullback import archive, cli
from studies import cli as studies
from tests.models.test_celeba import make_folder

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS_AND_OUTPUTS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
BLOCKS = [block for block, _ in BLOCKS_AND_OUTPUTS]


def test_the_python_examples_one_after_the_other(capsys):
    """They run as they stand, and print what stands below them."""
    names: dict[str, object] = {}
    shown = 0
    for block, output in BLOCKS_AND_OUTPUTS:
        if not block.startswith("# my_encoder.py"):
            exec(compile(block, "README.md", "exec"), names)
            assert capsys.readouterr().out == output
            shown += bool(output)
    assert "attack" in names
    assert shown >= 1


def test_the_encoder_for_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (factory,) = (block for block in BLOCKS if block.startswith("# my_encoder.py"))
    Path("my_encoder.py").write_text(factory, encoding="utf-8")
    np.save("images.npy", np.random.default_rng(0).random((20, 8, 8), dtype=np.float32))
    # That on CelebA goes on in a second line.
    shown = re.findall(r"^    pullback (.*[^\\])$", README, re.MULTILINE)
    assert len(shown) == 7
    for command in shown:
        assert cli.main(command.split()) == 0
    assert "20 of 20 images have all eigenpairs converged" in capsys.readouterr().out


def test_celeba_in_three_commands(tmp_path, monkeypatch, capsys):
    """Trained, scored and shown as the README says, from a folder in CelebA's layout."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "CelebA")
    (block,) = re.findall(r"\n\n((?:    .*\n)+)", README[README.index("CelebA is taken") :])[:1]
    commands = block.replace("\\\n", " ").splitlines()
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        if words[0] == "pullback":
            assert cli.main(words[1:]) == 0
        else:
            assert words[:3] == ["python", "-m", "studies"]
            assert studies.main(words[3:]) == 0
    assert "2 images are scored into celeba/archive.h5" in capsys.readouterr().out
    columns = archive.read("celeba", ["file", "failed"])
    assert columns["file"].tolist() == [b"img_align_celeba/0000%d.jpg" % i for i in (11, 12)]
    page = Path("celeba", "report.html").read_text(encoding="utf-8")
    assert page.count("reconstruction after the step of image") == 2

"""The page about many machines: its commands are ones that there are, and its Python runs."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pullback import archive
from pullback.options import make_parser

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "studies" / "MACHINES.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"pullback (score (?:.*\\\n)*.*)", PAGE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    assert make_parser().parse_args(shlex.split(command.replace("\\\n", " "))).score.out == "run"


class Executor:
    """Does at once what submitit would have a machine do."""

    def __init__(self, folder):
        pass

    def update_parameters(self, **parameters):
        pass

    def map_array(self, function, arguments):
        return [SimpleNamespace(result=lambda i=i: function(i)) for i in arguments]


def test_submitit(place, monkeypatch):
    (block,) = re.findall(r"```python\n(import submitit.*?)```", PAGE, re.DOTALL)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    (place / "my_encoder.py").write_text("from encoders import declared as encoder\n")
    np.save("images.npy", np.random.default_rng(0).random((30, 4, 4), dtype=np.float32))
    exec(compile(block, "MACHINES.md", "exec"), {})
    assert len(archive.read("run")["trace"]) == 30

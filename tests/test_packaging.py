"""The wheel holds all that is needed: built, installed elsewhere, and scored with there."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCORING = """
    import json
    import torch
    import pullback as pb

    scores = pb.score(pb.as_map(torch.nn.Linear(6, 3)), torch.rand(4, 6), k=2)
    print(json.dumps([pb.__file__, pb.__version__, list(scores.eigenvalues.shape)]))
"""


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def sources() -> set[str]:
    """What of the package git would keep, by the names that the wheel should have."""
    files = (path for path in (ROOT / "pullback").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources: setuptools leaves its own files beside them."""
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in sources() | {"pyproject.toml", "README.md", "LICENSE"}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, copy)
    (path,) = built.glob("pullback-*.whl")
    return path


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == sources()
    assert "pullback/py.typed" in held


def test_scoring_with_the_installed_wheel(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-compile", "--target", target, wheel)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCORING)],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, version, shape = json.loads(done.stdout)
    assert Path(file) == target / "pullback" / "__init__.py"
    assert wheel.name.startswith(f"pullback-{version}-")
    assert shape == [4, 2]


def test_a_checkout_that_is_not_installed_has_a_version(tmp_path):
    # -S: without the packages of the environment, metadata of this one included.
    code = "import runpy; print(runpy.run_path('version.py')['__version__'])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=ROOT / "pullback",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0+unknown\n"

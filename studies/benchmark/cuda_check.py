"""Everything that has to be seen on a real GPU, by one command."""

import subprocess
import sys
from pathlib import Path

import torch

from . import benchmark

PYTEST = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rf", "-p", "no:cacheprovider"]


def cuda_check(out: str = "studies/benchmark/cuda", checkpoint: str | None = None) -> None:
    """Run the tests marked ``cuda`` and the benchmark on a GPU; write what came of them.

    Args:
        out: folder for tests.md and what ``benchmark`` writes, to be committed.
        checkpoint: see ``benchmark``.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            f"cuda-check needs a CUDA device, and PyTorch {torch.__version__} finds none here"
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tests = run_tests(PYTEST)
    print(tests)
    (folder / "tests.md").write_text(f"# `pytest -m cuda`\n\n{tests}\n")
    benchmark("cuda", out, checkpoint)


def run_tests(command: list[str]) -> str:
    """The last line of what pytest says, and the tests that failed, as Markdown."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (said.stdout.strip() or said.stderr.strip()).splitlines()
    failed = [f"- {line}" for line in lines[:-1] if line.startswith("FAILED")]
    return "\n".join([*lines[-1:], "", *failed]).strip()

"""Which encoders of other packages are captured, and what it takes to declare them."""

import inspect
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

import pullback as pb
from pullback.products.captured import CapturedLinearization

from .encoders import SPECIMENS, Specimen

HEADER = """# Encoders of other packages

`python -m studies zoo` makes each of these models at a small random configuration, scores two
inputs, and says whether the products came from captured graphs or from autograd. The glue is what
a user writes to declare the model; `tests/zoo` compares each with a dense Jacobian in float64.

| package | model | captured | lines | glue |
| --- | --- | --- | --- | --- |
"""


def zoo(out: str = "studies/benchmark") -> None:
    """Score encoders of other packages; write which are captured, and the glue that they need.

    Args:
        out: folder for zoo.md.
    """
    for package in {specimen.package for specimen in SPECIMENS}:
        if find_spec(package) is None:
            raise ValueError(f"the zoo needs {package}, which is not installed; pip install it")
    text = HEADER + "".join(map(_row, SPECIMENS))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.md").write_text(text)
    print(text)


def is_captured(encoder: pb.Map, x: torch.Tensor) -> bool:
    """Whether the map's products at x come from captured graphs."""
    with torch.no_grad():
        return isinstance(pb.jacobian(encoder, x)._linearization(), CapturedLinearization)


def _row(specimen: Specimen) -> str:
    encoder, x = specimen.glue(specimen.module()), specimen.inputs(2)
    pb.score(encoder, x)
    captured = "yes" if is_captured(encoder, x) else "no"
    lines = _glue_of(specimen)
    package = f"{specimen.package} {version(specimen.package)}"
    code = "; ".join(lines)
    return f"| {package} | {specimen.model} | {captured} | {len(lines)} | `{code}` |\n"


def _glue_of(specimen: Specimen) -> list[str]:
    """The lines of its function, without its own first."""
    _, *lines = inspect.getsource(specimen.glue).strip().splitlines()
    return [line.strip().removeprefix("return ") for line in lines]

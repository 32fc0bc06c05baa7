"""The audit of the solvers: it sees what is false, and finds nothing in a small sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pullback as pb
from studies.audit import audit
from studies.audit.problems import directed, fuzzed
from studies.audit.solvers import judge


def test_a_small_audit_finds_nothing_false(capsys, tmp_path):
    audit(out=str(tmp_path), problems=100, seed=3)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 * len(pb.METHODS)
    assert all(row.endswith("| 0 | 0 |") for row in rows)
    assert all(row in (tmp_path / "table.md").read_text() for row in rows)


@pytest.mark.parametrize("draw", [fuzzed, directed])
def test_what_is_false_is_seen(draw):
    problems = draw(np.random.default_rng(1))
    right = judge(problems, "dual", 0)
    assert not (right.wrong_value | right.wrong_residual).any()
    assert right.converged.all()
    eye = torch.eye(problems.dense.shape[-1], dtype=torch.float64)
    other = replace(problems, dense=problems.dense + 0.1 * problems.dense[:, :1, :1] * eye)
    assert judge(other, "dual", 0).wrong_value.all()

"""The calibration study: what it counts, and its table."""

import pytest
import torch

import pullback as pb
from studies.audit.calibration import SPECTRA, Row, _row, calibrate, cases, table


def test_what_is_counted():
    estimate = pb.Estimate(
        torch.tensor([1.0, 2.0, 4.0, 9.0]), torch.tensor([0.5, 1.0, 1.0, torch.inf])
    )
    row = _row("name", "spectrum", estimate, torch.tensor(2.0))
    assert (row.one, row.two, row.unknown) == (0.5, 1.0, 0.25)
    assert row.actual == pytest.approx((1 + 0 + 4 + 49) ** 0.5 / 2 / 2)


def test_a_table_names_what_is_not_calibrated():
    first, second = list(SPECTRA)[:2]
    rows = [Row("a", first, 0.7, 0.95, 0.1, 0.1, 0.0), Row("a", second, 0.5, 0.8, 0.1, 0.1, 0.5)]
    lines = table(rows, 300).splitlines()
    assert f"Below 90% at two: a on {second} (80%)." in lines
    header = "| estimator | " + " | ".join(SPECTRA) + " |"
    assert lines.count(header) == 2
    assert lines[lines.index(header) + 2].startswith("| a | 70 95 | 50 80* | ")
    assert lines[-1].startswith("| a | 1e-01 1e-01 | 1e-01 1e-01 | ")


def test_every_estimator_runs(monkeypatch):
    monkeypatch.setattr("studies.audit.calibration.SPECTRA", {"0.5ⁱ": SPECTRA["0.5ⁱ"]})
    rows = calibrate(seeds=2)
    assert [row.estimator for row in rows] == [name for case in cases() for name in case.truths]
    assert all(row.error >= 0 for row in rows)

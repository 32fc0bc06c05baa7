"""The table of other packages' encoders."""

from pathlib import Path

import pytest

import studies.zoo
from studies.cli import main
from studies.zoo.encoders import SPECIMENS

COMMITTED = Path(studies.zoo.__file__).parents[1] / "benchmark" / "zoo.md"


def test_a_row_tells_what_a_user_writes(tmp_path, monkeypatch):
    (specimen,) = (s for s in SPECIMENS if s.model == "AutoencoderTiny")
    monkeypatch.setattr(studies.zoo, "SPECIMENS", [specimen])
    assert main(["zoo", "--out", str(tmp_path)]) == 0
    row = (tmp_path / "zoo.md").read_text().splitlines()[-1]
    package, model, captured, lines, glue = (cell.strip() for cell in row.split("|")[1:-1])
    assert package.startswith("diffusers 0.")
    assert (model, captured, lines) == ("AutoencoderTiny", "yes", "1")
    assert glue.startswith("`pb.as_map(")


def test_a_package_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(studies.zoo, "find_spec", lambda package: None)
    assert main(["zoo"]) == 1
    assert "is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("specimen", SPECIMENS, ids=str)
def test_the_committed_table_has_every_encoder(specimen):
    captured = "yes" if specimen.captured else "no"
    assert f"| {specimen.model} | {captured} |" in COMMITTED.read_text()

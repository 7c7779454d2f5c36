"""The script that makes the tables of published models."""

from __future__ import annotations

from pathlib import Path

import pytest

import models_table
from lightning_modules.interop.published import published_models
from table_pages import DOCS


def test_the_page_shows_the_list(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text((DOCS / "models.md").read_text())
    assert models_table.main(["--docs", str(tmp_path)]) == 0
    assert page.read_text() == (DOCS / "models.md").read_text(), (
        f"run `python {models_table.SCRIPT}`"
    )


def test_rows_show_facts_and_scores() -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in models_table.tables()]
    rows = [line for line in lines if line and line[0] == "`scnet`"]
    assert rows[0][2:] == ["vocals, drums, bass, other", "42", "not stated"]
    assert rows[1][1:] == ["uSDR", "MUSDB18-HQ", "9.90", "10.44", "8.89", "6.89", ""]
    (drums,) = [line for line in lines if line and line[0] == "`mdx23c_drumsep`"][1:]
    assert drums[-1] == "kick 14.54, snare 9.79, toms 10.63, hh 3.19"
    names = {line[0].strip("`") for line in lines if line}
    assert {*published_models()} <= names


def test_a_page_without_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.md").write_text("# Models\n")
    assert models_table.main(["--docs", str(tmp_path)]) == 2
    assert "has no lines <!-- table" in capsys.readouterr().err

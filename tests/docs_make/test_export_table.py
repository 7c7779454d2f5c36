"""The script that makes the table of exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import export_table
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.interop import export
from lightning_modules.interop.export import Exported, ExportError
from table_pages import DOCS, with_table
from tests.helpers.configs import ROOTS, tiny_model

PAGE = f"# Export\n\n<!-- table: made by {export_table.SCRIPT} -->\nold\n<!-- end -->\nend\n"


def whole(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    assert path.suffix == ".pt2"
    return Exported("model", ["batch", 2, "samples"], 240, 1.2e-7)


def part(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    return Exported("network", [1, 2, 257, 64], None, 0.0, "it is | a loop")


def none(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    raise ExportError("a | b")


@pytest.mark.slow
def test_rows_hold_results_and_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"safetensors": part, "torch_export": whole, "onnx": none}
    monkeypatch.setattr(export, "EXPORTS", ways)
    (tmp_path / "export.md").write_text(PAGE)
    for name in ("wave_unet", "fnn"):
        assert export_table.main([name, "--docs", str(tmp_path)]) == 0
    lines = (tmp_path / "export.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.replace("\\|", "/").split("|")] for line in lines]
    (row,) = (row for row in cells if "`wave_unet`" in row)
    assert row[2:6] == [
        "`WaveUNet`",
        "network, one example, fixed length (exact): it is / a loop",
        "model, any batch, from 240 samples on (1e-07)",
        "no: a / b",
    ]
    assert any("`fnn`" in row for row in cells)
    assert lines[-1] == "end"
    assert "old" not in lines
    assert sorted(json.loads((tmp_path / "export.json").read_text())) == ["fnn", "wave_unet"]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_table.main(["unett", "--docs", str(tmp_path)]) == 2
    assert "did you mean unet?" in capsys.readouterr().err
    (tmp_path / "export.md").write_text(PAGE)
    (tmp_path / "export.json").write_text("{")
    assert export_table.main(["--docs", str(tmp_path)]) == 2
    assert f"{tmp_path / 'export.json'}: is not JSON" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_shows_the_stored_results_of_all_architectures() -> None:
    rows = json.loads((DOCS / "export.json").read_text())
    assert sorted(rows) == ROOTS, f"python {export_table.SCRIPT} <config>"
    for name, row in rows.items():
        assert row["class"] == type(tiny_model(name)).__name__
    page = DOCS / "export.md"
    assert with_table(page, export_table.SCRIPT, export_table.table(rows)) == page.read_text()

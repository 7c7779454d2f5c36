"""The script that makes the table of configs in the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import architectures
import model_cost
from datamodules.demo.corpus import VERSION
from lightning_modules import cli
from table_pages import DOCS, with_table
from tests.helpers.tracks import write_track


@pytest.fixture(autouse=True)
def _quick_real_time_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cost, "real_time_factor", lambda *_: 0.25)


def page_in(folder: Path) -> Path:
    """Page with markers."""
    page = folder / "docs/architectures.md"
    page.parent.mkdir()
    marker = f"<!-- table: made by {architectures.SCRIPT} -->"
    page.write_text(f"# Head\n\n{marker}\nold\n<!-- end -->\n\nFoot\n")
    return page


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


@pytest.mark.slow
def test_table_is_written_between_its_markers(tmp_path: Path) -> None:
    page = page_in(tmp_path)
    docs = ["--docs", str(page.parent)]
    scored: dict[str, Any] = {
        "training_seconds": 90,
        "sdr": 2.5,
        "mixture_sdr": -5,
        "command": "fit --config x",
    }
    scored["constant_gain_sdr"] = {"mixture/4": 2.6, "best gain": 2.7}
    kept = {"unet/small": {"paper": "", "latency_seconds": 0.1, **scored}}
    (page.parent / "architectures.json").write_text(json.dumps(kept))
    assert architectures.main(["unet/small", "--no-training", *docs]) == 0
    text = page.read_text()
    assert text.startswith("# Head\n\n<!--")
    assert text.endswith("-->\n\nFoot\n")
    assert "old" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `unet/small`")]
    shown = cells(row)
    assert shown[1] == "unet.yaml with a small network and a short training for a CPU (minutes)"
    assert shown[2] == f"{model_cost.measure_model('unet/small').parameters:,}"
    marked = ["2.50 dB †", "-5.00 dB", "2.60 dB", "2.70 dB", "1", "`fit --config x`"]
    assert shown[4:] == ["0.25", "chunk", "1.5 min", *marked]
    assert architectures.main(docs) == 0
    assert page.read_text() == text


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_in(tmp_path)
    docs = ["--docs", str(page.parent)]
    assert architectures.main(["unett", *docs]) == 2
    assert "did you mean unet?" in capsys.readouterr().err
    assert architectures.main(["--docs", str(tmp_path)]) == 2
    assert "architectures.md: there is no such page; give --docs" in capsys.readouterr().err
    page.write_text("no markers")
    assert architectures.main(docs) == 2
    assert f"{page}: has no lines" in capsys.readouterr().err


TINY = """# Nobody 2026
model:
  class_path: lightning_modules.architectures.nmf.NMF
  init_args: {{rank: 2, iterations: 2, n_fft: 256, hop_length: 128}}
data:
  init_args:
    {{root: {root}, examples_per_epoch: 4, batch_size: 2, segment_seconds: 0.5, num_workers: 0,
      sample_rate: 8000, validation_tracks: [B - 2]}}
trainer: {{max_epochs: 1}}
"""


@pytest.mark.slow
def test_a_config_is_trained_and_scored(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, track in enumerate(("train/A - 1", "train/B - 2", "test/C - 3")):
        write_track(root / track, seconds=2, sample_rate=8000, seed=seed)
    page = page_in(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY.format(root=root))
    assert architectures.main([str(config), "--docs", str(page.parent)]) == 0
    (row,) = json.loads(page.with_name("architectures.json").read_text()).values()
    assert row["paper"] == "Nobody 2026"
    assert row["sdr"] > row["mixture_sdr"]
    assert row["mixture_sdr"] < row["constant_gain_sdr"]["best gain"]
    assert row["training_seconds"] > 0
    assert row["command"] == f"fit --config {config}"
    assert row["corpus"] == VERSION


def test_a_failed_training_leaves_the_pages_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_in(tmp_path)
    before = page.read_text()
    monkeypatch.setattr(architectures, "cost", lambda name: {})
    monkeypatch.setattr(cli, "main", lambda arguments: 3)
    assert architectures.main(["unet", "--docs", str(page.parent)]) == 1
    assert "fit --config unet/small.yaml ended with 3" in capsys.readouterr().err
    assert page.read_text() == before


def test_page_shows_the_stored_results() -> None:
    rows = json.loads((DOCS / "architectures.json").read_text())
    page = DOCS / "architectures.md"
    assert with_table(page, architectures.SCRIPT, architectures.table(rows)) == page.read_text()

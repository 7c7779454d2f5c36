"""The script that makes the tables of configs in docs and README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import architectures
import model_cost
from lightning_modules import cli
from table_pages import DOCS, with_table
from tests.helpers.command_line import REPOSITORY
from tests.helpers.tracks import write_track


@pytest.fixture(autouse=True)
def _quick_real_time_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cost, "real_time_factor", lambda *_: 0.25)


def pages(folder: Path) -> tuple[Path, Path]:
    """Page and README with markers."""
    docs = folder / "docs"
    docs.mkdir()
    found = docs / "architectures.md", folder / "README.md"
    for page in found:
        marker = f"<!-- table: made by {architectures.SCRIPT} -->"
        page.write_text(f"# Head\n\n{marker}\nold\n<!-- end -->\n\nFoot\n")
    return found


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


@pytest.mark.slow
def test_tables_are_written_between_their_markers(tmp_path: Path) -> None:
    page, readme = pages(tmp_path)
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
    for written in (text, readme.read_text()):
        assert written.startswith("# Head\n\n<!--")
        assert written.endswith("-->\n\nFoot\n")
        assert "old" not in written
    (row,) = [line for line in text.splitlines() if line.startswith("| `unet/small`")]
    shown = cells(row)
    assert shown[1] == "unet.yaml with a small network and a short training for a CPU (minutes)"
    assert shown[2] == f"{model_cost.measure_model('unet/small').parameters:,}"
    marked = ["2.50 dB †", "-5.00 dB", "2.60 dB", "2.70 dB", "`fit --config x`"]
    assert shown[4:] == ["0.25", "chunk", "1.5 min", *marked]
    assert architectures.main(docs) == 0
    assert page.read_text() == text


def test_the_ranking_is_sorted_by_score_and_ends_with_the_mixture() -> None:
    scores: dict[str, Any] = {"training_seconds": 90.0, "mixture_sdr": -5.0}
    scores["constant_gain_sdr"] = {"mixture/4": 1.0, "best gain": 1.1}
    rows: dict[str, dict[str, Any]] = {
        "unet": {**scores, "sdr": 2.5, "command": "fit --config unet/small.yaml"},
        "nmf": {
            **scores,
            "sdr": 3.123,
            "training_seconds": 300.0,
            "command": "fit --config nmf.yaml",
        },
        "unet/small": {**scores, "sdr": 9.0},
        "roma": {"paper": "not trained yet"},
    }
    heading, _, *lines = architectures.ranking(rows)
    assert [cells(line) for line in (heading, *lines)] == [
        ["config", "trained for", "SDR"],
        ["[`nmf`](configs/nmf.yaml)", "5 min", "3.12 dB"],
        ["[`unet/small`](configs/unet/small.yaml)", "2 min", "2.50 dB"],
        ["the mixture as estimate, mixture/4, best gain", "", "-5.00 dB, 1.00 dB, 1.10 dB"],
    ]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, _ = pages(tmp_path)
    docs = ["--docs", str(page.parent)]
    assert architectures.main(["unett", *docs]) == 2
    assert "did you mean unet.yaml?" in capsys.readouterr().err
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
    page, _ = pages(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY.format(root=root))
    assert architectures.main([str(config), "--docs", str(page.parent)]) == 0
    (row,) = json.loads(page.with_name("architectures.json").read_text()).values()
    assert row["paper"] == "Nobody 2026"
    assert row["sdr"] > row["mixture_sdr"]
    assert row["mixture_sdr"] < row["constant_gain_sdr"]["best gain"]
    assert row["training_seconds"] > 0
    assert row["command"] == f"fit --config {config}"


def test_a_failed_training_leaves_the_pages_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, _ = pages(tmp_path)
    before = page.read_text()
    monkeypatch.setattr(architectures, "cost", lambda name: {})
    monkeypatch.setattr(cli, "main", lambda arguments: 3)
    assert architectures.main(["unet", "--docs", str(page.parent)]) == 1
    assert "fit --config unet/small.yaml ended with 3" in capsys.readouterr().err
    assert page.read_text() == before


def test_pages_show_the_stored_results() -> None:
    rows = json.loads((DOCS / "architectures.json").read_text())
    for page, lines in (
        (REPOSITORY / "README.md", architectures.ranking(rows)),
        (DOCS / "architectures.md", architectures.table(rows)),
    ):
        assert with_table(page, architectures.SCRIPT, lines) == page.read_text()

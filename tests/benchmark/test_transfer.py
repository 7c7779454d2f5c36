"""Batches of the data module on the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_modules.tools.benchmark import main


def test_rates_of_both_types(
    musdb_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    sizes = ["--batch-size", "2", "--segment-seconds", "0.2", "--workers", "0", "--seconds", "0.1"]
    words = ["transfer", "--root", str(musdb_root), "--device", "cpu", "--json", str(path)]
    assert main([*words, *sizes]) == 0
    report = json.loads(path.read_text())
    assert [(row["workers"], row["dtype"]) for row in report["rows"]] == [
        (0, "float32"),
        (0, "int16"),
    ]
    # Four stereo stems of 8820 samples.
    for row, size in zip(report["rows"], (4, 2), strict=True):
        copied = row["examples_per_second"] * 8 * 8820 * size
        assert row["bytes_per_second"] == pytest.approx(copied)
    shown = capsys.readouterr().out
    assert f"plain copies {report['settings']['copy_bytes_per_second'] / 1e9:.3g} GB/s" in shown


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", "--batch-size", "0", "--device", "cpu"]) == 2
    assert "--batch-size is 0" in capsys.readouterr().err
    assert main(["transfer", "--workers", "-1", "--device", "cpu"]) == 2
    assert "--workers has -1" in capsys.readouterr().err

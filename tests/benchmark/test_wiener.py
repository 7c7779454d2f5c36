"""The benchmark of Wiener filters: who takes part, figures, tables and mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import DataError
from lightning_modules.benchmark.wiener import _norbert
from lightning_modules.tools.benchmark import main

SHORT = ["wiener", "--track-seconds", "0.1", "--repeats", "1", "--device", "cpu"]


def rows_of(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "figures.json"
    assert main([*SHORT, *arguments, "--json", str(path)]) == 0
    rows: dict[str, Any] = json.loads(path.read_text())["rows"]
    return rows


def test_filters_agree_and_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(tmp_path, "--iterations", "2")
    assert list(rows) == ["stemlab", "norbert (package)", "openunmix (package)"]
    assert all(row["fault"] is None and row["seconds"] > 0 for row in rows.values())
    assert rows["norbert (package)"]["difference"] == 0
    assert 0 < rows["stemlab"]["difference"] < 1e-6
    assert 0 < rows["openunmix (package)"]["difference"] < 1e-2
    shown = capsys.readouterr().out
    assert "iterations 2; CPU" in shown
    ratio = rows["openunmix (package)"]["seconds"] / rows["stemlab"]["seconds"]
    assert f"| {ratio:.2f} " in shown


def test_who_is_absent_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for absent in ("norbert", "openunmix.filtering"):
        monkeypatch.setitem(sys.modules, absent, None)
    rows = rows_of(tmp_path)
    assert "not installed: pip install 'norbert'" in rows["norbert (package)"]["fault"]
    assert rows["stemlab"]["difference"] is None
    assert rows["stemlab"]["seconds"] > 0
    assert "not measured: openunmix is not installed" in capsys.readouterr().out


def test_norbert_is_left_out_on_a_gpu() -> None:
    with pytest.raises(DataError, match="runs on a CPU only"):
        _norbert(torch.ones(4, 2, 3, 1), torch.ones(2, 3, 1), 1, "cuda")


def test_numbers_that_measure_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--iterations", "0"]) == 2
    assert "--iterations is 0: give a number above 0" in capsys.readouterr().err

"""The benchmark of convolution: all entrants do the same, and its table says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datamodules.benchmark import convolution
from lightning_modules.tools.benchmark import main


def test_all_entrants_convolve() -> None:
    random = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 1000, generator=random)
    responses = torch.randn(2, 50, generator=random)
    results = [entrant(waveforms, responses) for entrant in convolution.ENTRANTS.values()]
    for result in results[1:]:
        assert torch.allclose(result, results[0], atol=1e-4)


def test_table_and_figures_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_MOST_PRODUCTS", 2 * 441 * 50)
    threads = torch.get_num_threads()
    lengths = ["--segment-seconds", "0.01", "--response-seconds", "0.001", "0.002"]
    path = tmp_path / "figures.json"
    assert main(["convolution", *lengths, "--repeats", "2", "--json", str(path)]) == 0
    assert torch.get_num_threads() == threads
    report = json.loads(path.read_text())
    first, second = (row["audio_seconds_per_cpu_second"] for row in report["rows"])
    assert list(first) == list(convolution.ENTRANTS)
    assert "direct (SciPy)" not in second, "it would take too long"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 0")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    ratio = first["Stemlab"] / first["direct (SciPy)"]
    assert cells[0][-1] == f"{ratio:,.3g}"
    assert cells[1][2] == cells[1][-1] == "-"


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convolution", "--segment-seconds", "0"]) == 2
    assert "--segment-seconds is [0.0]" in capsys.readouterr().err

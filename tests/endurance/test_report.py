"""Tables of trials."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.endurance.interruptions import Hit
from lightning_modules.endurance.report import report
from lightning_modules.endurance.trials import Trial
from lightning_modules.endurance.variants import Variant


def test_report_counts_signals_and_names_failures() -> None:
    first = Variant("1", 0, "none", "cosine", 1, "no", "no", "32-true")
    second = Variant("2 by torchrun", 2, "step", "cosine", 1, "no", "no", "32-true")
    hits = [Hit("SIGKILL", "saving"), Hit("SIGTERM", "saving"), Hit("SIGKILL", "training")]
    trials = [Trial(4, first, hits), Trial(5, second, hits[:1], "checkpoints/last.ckpt: other")]
    text = report(trials, Path("kept"), "endurance")
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("| ").split("|")]]
    }
    assert rows["saving"] == ["2", "1", "2 of 3"]
    assert rows["training"] == ["1", "0", "1 of 1"]
    assert rows["validation"] == ["0", "0", "0 of 0"]
    assert rows["ranks: 1"] == ["1", "3", "1 of 1"]
    assert rows["ranks: 2 by torchrun"] == ["1", "1", "0 of 1"]
    assert rows["schedule: cosine"] == ["2", "4", "1 of 2"]
    assert "FAILED seed 5: checkpoints/last.ckpt: other" in text
    assert "signals: SIGKILL in saving\n" in text
    assert "repeat with: endurance --seed 5 --runs 1" in text
    assert "seed 4" not in text
    assert text.endswith("1 of 2 runs equal their undisturbed runs, after 4 signals.")

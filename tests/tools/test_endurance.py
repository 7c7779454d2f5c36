"""The test of exact resuming: one run of it, and that it finds a run that does not resume."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.endurance import trials
from lightning_modules.endurance.interruptions import Interruption
from lightning_modules.endurance.variants import Variant
from lightning_modules.tools.endurance import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_killed_runs_end_like_undisturbed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = tmp_path / "failed"
    status = main(["--runs", "1", "--seed", "2", "-o", str(failed)])
    output = capsys.readouterr().out
    assert status == 0, output
    assert not failed.exists()
    last_line = output.split("\n")[-2]
    assert re.fullmatch(r"1 of 1 runs equal their undisturbed runs, after \d signals.", last_line)


def test_a_run_that_does_not_resume_exactly_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without ``ExactResume``, dropout differs after a kill within an epoch."""
    variant = Variant("1", 0, "none", "cosine", 1, "steps", "no", "32-true")
    callbacks = Variant._callbacks

    def without_exact_resume(variant: Variant) -> list[dict[str, Any]]:
        return [each for each in callbacks(variant) if "ExactResume" not in each["class_path"]]

    monkeypatch.setattr(Variant, "_callbacks", without_exact_resume)
    monkeypatch.setattr(trials, "draw", lambda random: variant)
    kill = Interruption(signal.SIGKILL, "saving", 2, 0.02, None, 0.0)
    monkeypatch.setattr(trials, "plan", lambda random: [kill])
    assert main(["--runs", "1", "--seed", "7", "-o", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "FAILED seed 7: " in output
    assert "0 of 1 runs equal their undisturbed runs, after 1 signals." in output
    for name in ("killed", "undisturbed"):
        assert (tmp_path / "seed-7" / name / "run" / "checkpoints" / "last.ckpt").exists()
        assert (tmp_path / "seed-7" / name / "output").exists()

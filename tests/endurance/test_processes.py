"""All processes of a run are found, also those in sessions of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_modules.endurance.processes import RunProcesses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CHILD = "import time; print('child', flush=True); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True)
time.sleep(60)
"""


def test_kill_ends_children_in_other_sessions(tmp_path: Path) -> None:
    output = tmp_path / "output"
    run = RunProcesses([sys.executable, "-c", PARENT], output)
    try:
        assert run.wait(lambda: "child" in output.read_text(), 30)
        assert len(run.living()) == 2
        assert not run.wait(lambda: False, 0.05)
        assert not run.wait_for_all(0.05)
    finally:
        run.kill()
    assert run.living() == []
    assert run.wait(lambda: False, 5)
    assert run.wait_for_all(5)
    assert run.first.returncode == -9

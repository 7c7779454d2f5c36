"""Processes that tests start, signal and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.command_line import REPOSITORY


def start(*words: str, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a Python module in its own session; its output is appended to ``folder/output``."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (folder / "output").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment | variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def until(reached: Callable[[], bool], folder: Path, seconds: float) -> None:
    """Wait for a condition; fail with the output of the process after some seconds."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.02)


def members(session: int) -> list[str]:
    """Command lines of the living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[3]) == session and status[0] != "Z":
                found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a process's session."""
    if members(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""Faults of scoring processes.

Here, as each process of a pool imports the module of the function it is given: this one imports
neither torch nor Lightning.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning_modules.evaluation.scores import TrackScores, score_track

GATE = "STEMLAB_TEST_GATE"


def score_behind_gate(*arguments: Any) -> TrackScores:
    """Score a track once a file exists."""
    deadline = time.monotonic() + 60
    while not Path(os.environ[GATE]).exists():
        assert time.monotonic() < deadline, "the file was never made"
        time.sleep(0.01)
    return score_track(*arguments)


def end_process(name: str, *rest: Any) -> TrackScores:
    """Be killed while track 0 is scored; with a gate, only the first time."""
    if name == "0" and not (GATE in os.environ and Path(os.environ[GATE]).exists()):
        if GATE in os.environ:
            Path(os.environ[GATE]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score_track(name, *rest)


def run_out_of_memory(name: str, *rest: Any) -> TrackScores:
    """Raise for track 0."""
    if name == "0":
        raise MemoryError
    return score_track(name, *rest)


def be_killed(file: Path, times: int) -> int:
    """Be killed so many times; then return how often this was called."""
    calls = int(file.read_text()) if file.exists() else 0
    file.write_text(str(calls + 1))
    if calls < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls + 1


def score_after_kills(file: Path, times: int, known: object) -> TrackScores:
    """Be killed so many times; then return scores."""
    be_killed(file, times)
    return TrackScores("scored", {}, {})

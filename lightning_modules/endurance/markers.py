"""Marker files that say in which phase each rank of a run is; written by ``recorder.py``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

START = "start"
"""Kind of the record of a training's start."""
START_UP, TRAINING, VALIDATION, SAVING, ENDING = PHASES = (
    "start-up",
    "training",
    "validation",
    "saving",
    "ending",
)
"""Phases of a run: until the first batch, between, and after the last one."""

FOLDER = "endurance"
"""Folder of a run's directory that holds the markers and records."""


class Marker(NamedTuple):
    """A rank's position.

    Attributes:
        phase: One of ``PHASES``.
        visits: How many times this start of the run has entered the phase.
        process: Id of the process; 0 before it is known.
    """

    phase: str = START_UP
    visits: int = 1
    process: int = 0


def marker_file(run_dir: Path, rank: int) -> Path:
    """File of a rank's marker."""
    return run_dir / FOLDER / f"marker-{rank}"


def record_file(run_dir: Path, rank: int) -> Path:
    """File of a rank's records, one JSON list per line."""
    return run_dir / FOLDER / f"record-{rank}.jsonl"


def format_marker(marker: Marker) -> bytes:
    """Contents of a marker file; all have the same length, so that one replaces another."""
    return f"{marker.phase:12}{marker.visits:8}{marker.process:12}".encode()


def read_marker(run_dir: Path, rank: int = 0) -> Marker:
    """Read a rank's marker; the default if it has none yet."""
    try:
        phase, visits, process = marker_file(run_dir, rank).read_text().split()
    except (FileNotFoundError, ValueError):
        return Marker()
    return Marker(phase, int(visits), int(process))

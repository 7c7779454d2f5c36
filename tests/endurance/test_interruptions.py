"""A seed gives settings and interruptions; all of them are drawn."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random

from lightning_modules.endurance.interruptions import plan
from lightning_modules.endurance.markers import (
    PHASES,
    Marker,
    format_marker,
    marker_file,
    read_marker,
)
from lightning_modules.endurance.variants import OPTIONS, draw
from lightning_modules.runtime import signals


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = Random(7), Random(7)
    assert (draw(first), plan(first)) == (draw(second), plan(second))


def test_every_setting_signal_and_phase_is_drawn() -> None:
    drawn = [(draw(random), plan(random)) for random in map(Random, range(300))]
    for name, values in OPTIONS.items():
        assert {asdict(variant)[name] for variant, _ in drawn} == set(values)
    planned = Counter((each.number, each.phase) for _, many in drawn for each in many)
    numbers = {number for number, _ in planned}
    assert numbers == {signal.SIGKILL, *signals.STOP}
    assert all(planned[number, phase] for number in numbers for phase in PHASES)
    assert {len(many) for _, many in drawn} == set(range(3, 9))


def test_markers_replace_each_other(tmp_path: Path) -> None:
    assert read_marker(tmp_path) == Marker("start-up", 1, 0)
    path = marker_file(tmp_path, 0)
    path.parent.mkdir()
    for marker in (Marker("validation", 12, 34567), Marker("saving", 1, 3)):
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(format_marker(marker))
        assert read_marker(tmp_path) == marker

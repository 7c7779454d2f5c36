"""Score files with wrong contents: refused with the file's name, or usable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_modules.evaluation.score_files import read_scores, write_scores
from lightning_modules.evaluation.scores import METRICS, aggregate, merge
from tests.helpers.fuzzing import fuzzed

FRAME = {"time": 0.0, "duration": 1.0, "metrics": dict.fromkeys(METRICS, 1.5)}
TARGET = {"name": "vocals", "frames": [FRAME, {**FRAME, "time": 1.0}]}
CONTENT = {"targets": [TARGET], "usdr": {"vocals": 2.0}, "notes": ["a"], "origin": {"a": 1}}
TEXT = json.dumps(CONTENT | {"metrics": {"snr": {"vocals": 1.0}}})

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from([10**400, -1, 0, "1", "\ud800", "../a", []]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)  # fmt: skip
PLACES: list[tuple[Any, ...]] = [
    (),
    ("targets",),
    ("targets", 0),
    ("targets", 0, "name"),
    ("targets", 0, "frames"),
    ("targets", 0, "frames", 0),
    ("targets", 0, "frames", 1, "time"),
    ("targets", 0, "frames", 0, "duration"),
    ("targets", 0, "frames", 0, "metrics"),
    ("targets", 0, "frames", 0, "metrics", "SDR"),
    ("usdr",),
    ("usdr", "vocals"),
    ("notes",),
    ("origin",),
    ("metrics",),
    ("metrics", "snr"),
    ("metrics", "snr", "vocals"),
]


def replaced(place: tuple[Any, ...], value: Any) -> str:
    """The text of a score file in which one value is replaced."""
    content = json.loads(TEXT)
    if not place:
        return json.dumps(value)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(content)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A score file with another value in one place, or with other bytes and without its end."""
    if draw(st.booleans()):
        return replaced(draw(st.sampled_from(PLACES)), draw(VALUES)).encode()
    content = bytearray(TEXT.encode())
    for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@pytest.mark.slow
@fuzzed(300)
@given(damaged())
@example(b"[" * 100_000)
def test_damaged_score_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "song.json"
    path.write_bytes(content)
    try:
        scores = read_scores(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path}: expected a museval score file")
        message.encode()  # can be printed
        return
    assert 0 < scores.window_seconds < np.inf
    assert 0 < scores.hop_seconds < np.inf
    aggregate(merge([[scores]])).as_metrics()
    write_scores(scores, tmp_path / "again.json")
    read_scores(tmp_path / "again.json")

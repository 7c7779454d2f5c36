"""Metrics logged during training, from CSV, TensorBoard or Weights & Biases files."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Metric -> optimiser step -> value.
History = dict[str, dict[int, float]]

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_history(run_dir: Path) -> History:
    """Read the logs of all starts of a run, of any logger.

    Args:
        run_dir: The run's directory.

    Returns:
        Metric -> step -> value, steps ascending. If a resumed run repeated a step, the later value
        is used. Empty if nothing was logged.
    """
    history: History = {}
    for path in _by_age(run_dir, "lightning_logs/*/metrics.csv"):
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                add_row(history, row, "step")
    for path in _by_age(run_dir, "wandb/*run-*/*.wandb"):
        for record in wandb_records(path):
            add_row(history, history_row(record), "trainer/global_step")
    for path in _by_age(run_dir, "lightning_logs/*/events.out.tfevents.*"):
        _add_events(history, path)
    return {name: dict(sorted(points.items())) for name, points in history.items()}


def add_row(history: History, row: Mapping[Any, Any], step_name: str) -> None:
    """Add the numbers of a row, name -> value or its text, that were logged at one step."""
    step = _number(row.get(step_name))
    if not math.isfinite(step):
        return
    for name, value in row.items():
        if name != step_name and math.isfinite(number := _number(value)):
            history.setdefault(str(name), {})[int(step)] = number


def wandb_records(path: Path) -> Iterator[Any]:
    """Read the records of a run from the local ``.wandb`` file of Weights & Biases.

    The file is a log in LevelDB's format (blocks of 32 KiB; each record, or part of one, follows a
    checksum, its length and its kind) after a header of seven bytes.

    Yields:
        Records as wandb's protocol buffers, up to the first incomplete one: the run may still
        continue, or have been killed.
    """
    from wandb.proto import wandb_internal_pb2 as protocol

    content = path.read_bytes()
    position, parts = _HEADER, b""
    while position + _HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        begin = position + _HEADER
        position = begin + length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or position > len(content):
            return
        part = content[begin:position]
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            record = protocol.Record()  # type: ignore[attr-defined]
            record.ParseFromString(parts)
            yield record


def history_row(record: Any) -> dict[str, Any]:
    """Logged name -> value of a record of ``wandb_records``; empty for other kinds of records."""
    if record.WhichOneof("record_type") != "history":
        return {}
    return {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for item in record.history.item
        if item.value_json
    }


def _add_events(history: History, path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for point in events.Scalars(name):
            add_row(history, {name: point.value, "step": point.step}, "step")


def _by_age(run_dir: Path, pattern: str) -> list[Path]:
    return sorted(run_dir.glob(pattern), key=lambda path: (path.stat().st_mtime, path.name))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan

"""Score files in museval's JSON schema."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.evaluation.scores import METRICS, TrackScores


def write_scores(scores: TrackScores, path: str | Path) -> None:
    """Write one track's scores in museval's JSON schema, atomically.

    Frames are written as museval writes them: five decimals, bare NaN, infinity as NaN. The keys
    `usdr`, `notes`, `metrics` and `origin` are additions, which museval ignores. museval's stores
    expect files in `<method>/test/` and take the track's name from the file's.

    Args:
        scores: The track's scores.
        path: The file. Its folder is created; an existing file is replaced.
    """
    targets: list[dict[str, Any]] = []
    for source, metrics in scores.frames.items():
        frames = [
            {
                "time": index * scores.hop_seconds,
                "duration": scores.window_seconds,
                "metrics": {metric: _as_museval(metrics[metric][index]) for metric in METRICS},
            }
            for index in range(len(metrics["SDR"]))
        ]
        targets.append({"name": source, "frames": frames})
    content: dict[str, Any] = {"targets": targets, "usdr": scores.usdr, "notes": scores.notes}
    for key, value in (("metrics", scores.metrics), ("origin", scores.origin)):
        if value:
            content[key] = value

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_scores(path: str | Path) -> TrackScores:
    """Read one track's scores from a JSON file of this project or of museval.

    Missing scores may be a bare NaN, as museval and SiSEC 2018 write them, or null.

    Args:
        path: The file, named after the track.

    Returns:
        The scores; `usdr`, `notes`, `metrics` and `origin` are empty if museval wrote the file.

    Raises:
        ValueError: The file is not a museval score file, or is incomplete.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        frames = {
            target["name"]: {
                metric: np.array([frame["metrics"][metric] for frame in target["frames"]], float)
                for metric in METRICS
            }
            for target in content["targets"]
        }
        times = [
            (frame["time"], frame["duration"])
            for target in content["targets"][:1]
            for frame in target["frames"][:2]
        ]
        window_seconds = float(times[0][1]) if times else 1.0
        hop_seconds = float(times[1][0] - times[0][0]) if len(times) > 1 else window_seconds
        own = {source: float(value) for source, value in content.get("usdr", {}).items()}
        notes = [str(note) for note in content.get("notes", [])]
        origin = dict(content.get("origin", {}))
        metrics = dict(content.get("metrics", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a museval score file, found {type(error).__name__}: {error}; "
            "delete it and score the track again"
        ) from error
    return TrackScores(path.stem, frames, own, window_seconds, hop_seconds, notes, origin, metrics)


def read_folder(folder: str | Path) -> list[TrackScores]:
    """Read the score files in a folder, sorted by name.

    Raises:
        ValueError: There are no score files, or a file is not a museval score file.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ValueError(f"{folder}: no score files (*.json) in it; check the path")
    return [read_scores(path) for path in paths]


def _as_museval(value: np.float64) -> float:
    return round(float(value), 5) if np.isfinite(value) else math.nan

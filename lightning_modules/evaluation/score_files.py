"""Scores as files in museval's JSON schema, and as data frames of pandas."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_modules.evaluation.scores import METRICS, TrackScores

if TYPE_CHECKING:
    import pandas


def write_scores(scores: TrackScores, path: str | Path) -> None:
    """Write one track's scores in museval's JSON schema, in one stroke.

    Frames are written as museval writes them: five decimals, NaN bare, infinity as NaN. The keys
    `usdr`, `notes` and `origin` are ours; museval's schema and readers pass over them. museval's
    stores look for files below `<method>/test/` and take the track's name from the file's.

    Args:
        scores: The track's scores.
        path: The file; its folder is made, an older file is replaced.
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
    if scores.origin:
        content["origin"] = scores.origin

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a run that is killed while writing must not leave half a file under the real name
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_scores(path: str | Path) -> TrackScores:
    """Read one track's scores from museval's JSON, ours or anyone's.

    A figure that does not exist may be a bare NaN, as museval and SiSEC 2018 write it, or null.

    Args:
        path: The file; the track is called as the file is.

    Returns:
        The scores; `usdr`, `notes` and `origin` are empty if the file was written by museval.

    Raises:
        ValueError: The file is not a museval score file, or only half of one.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        frames = {
            target["name"]: {
                metric: np.array(
                    [frame["metrics"][metric] for frame in target["frames"]], dtype=np.float64
                )
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected a museval score file, found {type(error).__name__}: {error}; "
            "delete it and score the track again"
        ) from error
    return TrackScores(path.stem, frames, own, window_seconds, hop_seconds, notes, origin)


def read_folder(folder: str | Path) -> list[TrackScores]:
    """Read the score files of one method on one subset.

    Args:
        folder: The folder that they lie in.

    Returns:
        The scores, sorted by name.

    Raises:
        ValueError: There are none, or a file is not a museval score file.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ValueError(f"{folder}: no score files (*.json) in it; check the path")
    return [read_scores(path) for path in paths]


def data_frame(tracks: Sequence[TrackScores], method: str | None = None) -> pandas.DataFrame:
    """Make a data frame of scores, as museval's stores hold them in `df`.

    Args:
        tracks: The scores.
        method: Name of the system, for the column that `museval.MethodStore` has besides.

    Returns:
        A row for each track, target, metric and frame, with the columns time (start of the frame,
        seconds), target, metric, score (dB), track, and method if it is given.
    """
    import pandas  # takes most of a second, and only those who ask for a frame need it

    rows = [
        (index * track.hop_seconds, source, metric, _as_museval(score), track.name)
        for track in tracks
        for source, metrics in track.frames.items()
        for metric in METRICS
        for index, score in enumerate(metrics[metric])
    ]
    frame = pandas.DataFrame(rows, columns=["time", "target", "metric", "score", "track"])
    if method is not None:
        frame["method"] = method
    return frame


def _as_museval(value: np.float64) -> float:
    return round(float(value), 5) if np.isfinite(value) else math.nan

"""Score files in museval's JSON schema."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files.names import pair
from datamodules.files.writing import replacing
from lightning_modules.evaluation.baselines import GAIN, constant_gain_scores
from lightning_modules.evaluation.scores import METRICS, TrackScores


def score_files(folder: Path, tracks: Sequence[str]) -> dict[str, Path]:
    """Score file of each track in a folder: an existing one also with other letter case."""
    existing = pair(tracks, (path.stem for path in folder.glob("*.json")))
    return {name: folder / f"{existing.get(name, name)}.json" for name in tracks}


def write_scores(scores: TrackScores, path: str | Path) -> None:
    """Write one track's scores in museval's JSON schema, atomically.

    Frames are written as museval writes them: five decimals, bare NaN, infinity as NaN. The keys
    `usdr`, `notes`, `metrics`, `origin`, `sample_rate`, `channels`, `near_silent` and
    `constant_gains` are additions, which museval ignores. museval's stores expect files in
    `<method>/test/` and take the track's name from the file's.

    Args:
        scores: The track's scores.
        path: The file. Its folder is created; an existing file is replaced.

    Raises:
        DataError: It cannot be written; the message has the reason and the free space.
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
    for key in ("metrics", "origin", "sample_rate", "channels", "near_silent"):
        if value := getattr(scores, key):
            content[key] = value
    if scores.constant_gains:
        content["constant_gains"] = {
            name: {
                "gain": each.metrics[GAIN],
                "sdr": {
                    source: [_as_museval(value) for value in metrics["SDR"]]
                    for source, metrics in each.frames.items()
                },
                "usdr": each.usdr,
            }
            for name, each in scores.constant_gains.items()
        }

    with replacing(Path(path)) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def read_scores(path: str | Path) -> TrackScores:
    """Read one track's scores from a JSON file of this project or of museval.

    Missing scores may be a bare NaN, as museval and SiSEC 2018 write them, or null.

    Args:
        path: The file, named after the track.

    Returns:
        The scores; what museval does not write is empty or None if museval wrote the file.

    Raises:
        ValueError: The file is not a museval score file, or is incomplete.
    """
    path = Path(path)
    try:
        return _parse(path.stem, json.loads(path.read_text(encoding="utf-8")))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{path}: expected a museval score file, found {type(error).__name__}: {error}; "
            "delete it and score the track again"
        ) from error


def _parse(name: str, content: dict[str, Any]) -> TrackScores:
    """Scores of a file's content; raise any error of Python's if it is not as expected.

    Values are checked here, because wrong ones would fail much later, in averages and tables.
    """
    frames = {
        _text(target["name"]): {
            metric: np.array(
                [_score(frame["metrics"][metric]) for frame in target["frames"]], float
            )
            for metric in METRICS
        }
        for target in content["targets"]
    }
    times = [
        (_score(frame["time"]), _score(frame["duration"]))
        for target in content["targets"][:1]
        for frame in target["frames"][:2]
    ]
    window_seconds = times[0][1] if times else 1.0
    hop_seconds = times[1][0] - times[0][0] if len(times) > 1 else window_seconds
    for seconds in (window_seconds, hop_seconds):
        if not 0 < seconds < math.inf:
            raise ValueError(f"frames of {window_seconds} s every {hop_seconds} s")
    scores = TrackScores(
        name,
        frames,
        usdr=_scores(content.get("usdr", {})),
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        notes=[_text(note) for note in content.get("notes", [])],
        origin=dict(content.get("origin", {})),
        metrics={_text(key): _scores(each) for key, each in content.get("metrics", {}).items()},
        sample_rate=_count(content.get("sample_rate")),
        channels=_count(content.get("channels")),
        near_silent=[_text(source) for source in content.get("near_silent", [])],
    )
    for key, each in content.get("constant_gains", {}).items():
        sdr = {_text(source): [*map(_score, values)] for source, values in each["sdr"].items()}
        gains = _scores(each["gain"])
        if any(len(sdr[source]) != len(frames[source]["SDR"]) for source in gains):
            raise ValueError(f"{key}: another number of frames")
        scores.constant_gains[_text(key)] = constant_gain_scores(
            scores, sdr, _scores(each["usdr"]), gains
        )
    return scores


def _scores(values: dict[str, Any]) -> dict[str, float]:
    return {_text(source): _score(value) for source, value in values.items()}


def _score(value: Any) -> float:
    """A number; NaN for null, as a missing score."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{value!r:.50} in place of a number")
    return math.nan if value is None else float(value)


def _count(value: Any) -> int | None:
    """A positive integer, or None."""
    if value is not None and (type(value) is not int or value < 1):
        raise TypeError(f"{value!r:.50} in place of a positive integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} in place of a name")
    value.encode()  # a half of a surrogate pair could not be printed
    return value


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

"""Small score files and runs for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scores import METRICS, TrackScores

SOURCES = ("vocals", "drums", "bass", "other")


def track(name: str, level: float, sources: tuple[str, ...] = SOURCES) -> TrackScores:
    """Scores of three frames per source, one of them skipped.

    The median SDR is the level plus the number of the source, that of ISR 5 dB more, and so on.
    """
    frames = {
        source: {
            metric: np.array([-1.0, np.nan, 1.0]) + level + number + 5 * METRICS.index(metric)
            for metric in METRICS
        }
        for number, source in enumerate(sources)
    }
    return TrackScores(name, frames, dict.fromkeys(sources, level - 1))


def write_folder(
    folder: Path, levels: Mapping[str, float], sources: tuple[str, ...] = SOURCES
) -> Path:
    """Write score files: track -> level."""
    for name, level in levels.items():
        write_scores(track(name, level, sources), folder / f"{name}.json")
    return folder


def write_run(folder: Path, levels: Mapping[str, float], seed: int = 0, **model: Any) -> Path:
    """Write the files of a run: scores of test and mixture, a config and a log."""
    write_folder(folder / "scores/estimate/test", levels)
    write_folder(folder / "scores/mixture/test", dict.fromkeys(levels, -2.0))
    config = {
        "seed_everything": seed,
        "trainer": {
            "max_epochs": 4,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder)}},
            "callbacks": [{"class_path": "BSSEval", "init_args": {"blocking": True}}],
        },
        "model": {"class_path": "lightning_modules.architectures.unet.UNet", "init_args": model},
        "data": {"init_args": {"seed": seed, "root": str(folder), "sources": list(SOURCES)}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = folder / "lightning_logs/version_0/metrics.csv"
    log.parent.mkdir(parents=True)
    names = [f"val/sdr/{source}" for source in SOURCES]
    lines = [",".join(["epoch", "step", "train/loss", "val/sdr", *names])]
    for epoch in range(3):
        values = [str(epoch + seed + number) for number in range(5)]
        lines += [
            f"{epoch},{10 * epoch + 5},0.5,,,,,",
            f"{epoch},{10 * epoch + 9},," + ",".join(values),
        ]
    log.write_text("\n".join(lines) + "\n")
    return folder

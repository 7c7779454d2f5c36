"""Scores of songs after given processor minutes of a training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.index import Track
from datamodules.tracks.sources import SourceGrouping
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.ema import EMA
from lightning_modules.evaluation.scores import usdr

Separate = Callable[[Tensor, int], Tensor]
"""Mixture (C, T) and sample rate in Hz -> estimates (S, C, T)."""


def score(
    tracks: Sequence[Track], grouping: SourceGrouping, separate: Separate
) -> dict[str, float]:
    """Mean uSDR of each source over the tracks in which it sounds, dB."""
    rows = []
    for track in tracks:
        batch = grouping.read(track)
        estimates = separate(batch.mixture, track.sample_rate)
        rows.append(usdr(batch.targets.numpy(), estimates.cpu().numpy()))
    return dict(zip(grouping.sources, np.nanmean(rows, 0).tolist(), strict=True))


def mean_over_sources(scores: Mapping[str, float]) -> float:
    """Mean of the sources' scores."""
    return sum(scores.values()) / len(scores)


class Points:
    """Scores at given processor times of this process, without the time of scoring.

    Args:
        minutes: Processor minutes of the points.
        file: JSON file, written after each point.
    """

    def __init__(self, minutes: Sequence[float], file: Path) -> None:
        self.file = file
        self._due = sorted(minutes)
        self._points: list[dict[str, Any]] = []
        self._start = time.process_time()

    @property
    def complete(self) -> bool:
        """Whether all points are taken."""
        return not self._due

    def after_step(self, step: int, score: Callable[[], dict[str, float]]) -> None:
        """Take a point if one is due."""
        before = time.process_time()
        minutes = (before - self._start) / 60
        if self.complete or minutes < self._due[0]:
            return
        while self._due and self._due[0] <= minutes:
            due = self._due.pop(0)
        scores = score()
        self._points.append({"minutes": due, "steps": step, "usdr": scores})
        self.file.write_text(json.dumps(self._points))
        print(f"{due:g} min, step {step}: {mean_over_sources(scores):.2f} dB {scores}", flush=True)
        self._start += time.process_time() - before


class LearningCurve(Callback):
    """Score the test tracks after given processor minutes of `fit`, and stop it after the last.

    With the callback ``EMA``, the average of the weights is scored, as validations do.

    Args:
        minutes: As for `Points`.
        file: As for `Points`.
    """

    def __init__(self, minutes: list[float], file: str) -> None:
        self._minutes, self._file = minutes, file
        self._points: Points | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the tracks and start the clock."""
        _data_of(trainer).setup("test")
        self._points = Points(self._minutes, Path(self._file))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a point if one is due."""
        assert self._points is not None
        self._points.after_step(trainer.global_step, lambda: _score(trainer, pl_module))
        trainer.should_stop = self._points.complete


def _data_of(trainer: Trainer) -> MUSDBDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, MUSDBDataModule)
    return data


def _score(trainer: Trainer, model: LightningModule) -> dict[str, float]:
    assert isinstance(model, SourceSeparator)
    data = _data_of(trainer)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMA):
            callback.copy_average_to(model)
    model.eval()
    with torch.inference_mode():
        found = score(data.test_tracks, data.grouping, model.separate)
    model.train()
    model.load_state_dict(trained)
    return found

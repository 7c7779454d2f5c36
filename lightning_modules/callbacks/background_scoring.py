"""Pending scores of a validation, and training while they are computed."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from datamodules.command_line import describe
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.lightning_internals import logged_step
from lightning_modules.callbacks.run_files import state_name
from lightning_modules.evaluation.scores import METRICS, TrackScores
from lightning_modules.runtime.process_pool import PoolTask

_SCORES = {metric.lower() for metric in (*METRICS, "uSDR")}


_OF = {"estimate": "", "mixture": " (its mixture)"}


class ScoringError(RuntimeError):
    """Tracks could not be scored, and the run needs their scores; the message names them."""


class MonitorError(ValueError):
    """A callback or scheduler monitors a score that is logged too late for it."""


@dataclass(frozen=True)
class Position:
    """Position of a validation in the training.

    Attributes:
        epoch: The epoch.
        step: Optimiser steps so far, which checkpoints are named after.
        logged_step: The step under which loggers have the metrics of this validation.
    """

    epoch: int
    step: int
    logged_step: int

    @classmethod
    def current(cls, trainer: Trainer) -> Position:
        """Current position of a trainer."""
        return cls(trainer.current_epoch, trainer.global_step, logged_step(trainer))

    @property
    def name(self) -> str:
        """Name of the checkpoint of this position."""
        return state_name(self.epoch, self.step)


@dataclass
class ScoringPass:
    """Scores of one pass over the tracks, some of them still being computed.

    Attributes:
        split: ``val`` or ``test``.
        late: Whether training continues before the scores are there.
        method: Folder of the estimates' scores, which museval's stores read as a method's name.
        position: Position in the training.
        pending: For each track in the pool: ``estimate`` or ``mixture``, its name, its size in
            bytes, and its future scores.
        done: Scores by kind.
        faults: Kind and track of scores that could not be computed, and why.
        seconds: How long training or validation waited for scoring.
        epoch_seconds: Duration of the epoch, waiting included; None outside a training.
    """

    split: str
    late: bool
    method: str
    position: Position
    pending: deque[tuple[str, str, int, PoolTask[TrackScores]]] = field(default_factory=deque)
    done: dict[str, list[TrackScores]] = field(
        default_factory=lambda: {"estimate": [], "mixture": []}
    )
    faults: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float | None = None

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent inside to the times."""
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self.seconds += passed
        if self.epoch_seconds is not None:
            self.epoch_seconds += passed

    def collect(self, leave: int = 0) -> None:
        """Wait for the scores of all tracks but the last ``leave``."""
        while len(self.pending) > leave:
            kind, name, _, task = self.pending.popleft()
            try:
                self.done[kind].append(task.result())
            except Exception as error:
                self.faults.append((kind, f"track {name!r}{_OF[kind]}: {_reason(error)}"))

    def make_room(self, needed: int, limit: int) -> None:
        """Wait for scores until another track of ``needed`` bytes fits into ``limit`` bytes.

        A single track may exceed the limit.
        """
        while self.pending:
            held = sum(size for _, _, size, task in self.pending if not task.done())
            if held + needed <= limit:
                break
            self.collect(leave=len(self.pending) - 1)


def is_validation_score(name: str | None) -> bool:
    """Whether a metric is a BSS Eval score of a validation, such as ``val/sdr/vocals``."""
    split, _, metric = (name or "").partition("/")
    return split == "val" and metric.partition("/")[0] in _SCORES


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return (
            "the scoring process was killed, also when it scored this track alone; perhaps memory "
            "ran out: give the job more, or score fewer tracks with --trainer.limit_val_batches"
        )
    if isinstance(error, MemoryError):
        return "memory ran out while it was scored; give the job more"
    return describe(error)


def monitors_score(trainer: Trainer) -> bool:
    """Whether a scheduler or callback monitors a BSS Eval score of the validation."""
    return any(is_validation_score(monitor) for _, monitor in _monitors(trainer))


def check_monitors(trainer: Trainer) -> None:
    """Raise if a scheduler or callback other than ``Checkpoints`` monitors a late score."""
    for owner, monitor in _monitors(trainer):
        if is_validation_score(monitor) and not isinstance(owner, Checkpoints):
            raise MonitorError(
                f"{type(owner).__name__} has monitor: {monitor}, which with blocking: false of "
                "BSSEval is not known before the next validation; give it monitor: val/loss, or "
                "set blocking: true"
            )


def _monitors(trainer: Trainer) -> list[tuple[Any, str | None]]:
    """Callbacks and schedulers with the metric that each monitors."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    monitors = [(each, getattr(each, "monitor", None)) for each in callbacks]
    return monitors + [
        (config.scheduler, config.monitor)
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
    ]


@contextmanager
def temporary_state(model: LightningModule, weights: Mapping[str, Any]) -> Iterator[None]:
    """Evaluate a model with other weights; restore its own weights and modes afterwards."""
    own = copy.deepcopy(model.state_dict())
    modes = [(module, module.training) for module in model.modules()]
    model.load_state_dict(weights)
    model.eval()
    try:
        yield
    finally:
        model.load_state_dict(own)
        for module, training in modes:
            module.training = training

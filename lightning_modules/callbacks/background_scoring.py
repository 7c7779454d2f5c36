"""Scores on their way: what they are of, who may wait for them, how lost ones are made up for."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.evaluation.scores import METRICS, TrackScores

_SCORES = {metric.lower() for metric in (*METRICS, "uSDR")}


class MonitorError(ValueError):
    """Something watches a score that comes too late for it; the message names the remedy."""


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        epoch: The epoch.
        step: Steps of the optimiser, which checkpoints are named after.
        logged_step: What loggers have the figures of the validation at hand under.
    """

    epoch: int
    step: int
    logged_step: int

    @classmethod
    def of(cls, trainer: Trainer) -> Position:
        """The position of a trainer."""
        logged_step = trainer.fit_loop.epoch_loop._batches_that_stepped
        return cls(trainer.current_epoch, trainer.global_step, logged_step)


@dataclass
class Round:
    """A pass over the tracks, and its scores as they come.

    Attributes:
        split: ``val`` or ``test``.
        late: Whether other things go on before the scores are there.
        method: Folder of the estimates' scores, which museval's stores take for a method.
        position: Where the training stands.
        scoring: Of each track that is being scored, ``estimate`` or ``mixture``, the bytes that
            it takes, and its scores to come.
        done: Scores of both kinds.
        seconds: How long the scoring held everything else up.
        epoch_seconds: How long the epoch took, with that; None outside of an epoch.
    """

    split: str
    late: bool
    method: str
    position: Position
    scoring: deque[tuple[str, int, Future[TrackScores]]] = field(default_factory=deque)
    done: dict[str, list[TrackScores]] = field(
        default_factory=lambda: {"estimate": [], "mixture": []}
    )
    seconds: float = 0.0
    epoch_seconds: float | None = None

    @property
    def title(self) -> str:
        """What it is, in words."""
        if self.split == "test":
            return "Test"
        epoch = "" if self.method == "estimate" else f", epoch {self.position.epoch}"
        return f"Validation{epoch}"

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time."""
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self.seconds += passed
        if self.epoch_seconds is not None:
            self.epoch_seconds += passed

    def collect(self, all_but: int = 0) -> None:
        """Await the scores of all tracks but the last few."""
        while len(self.scoring) > all_but:
            kind, _, future = self.scoring.popleft()
            with explained():
                self.done[kind].append(future.result())

    def make_room(self, needed: int, limit: int) -> None:
        """Await scores until another track can wait without all of them taking too many bytes."""
        while self.scoring:
            held = sum(size for _, size, future in self.scoring if not future.done())
            if held + needed <= limit:
                break
            self.collect(all_but=len(self.scoring) - 1)


@contextmanager
def explained() -> Iterator[None]:
    """Say what may be done when a scoring process is ended.

    Raises:
        RuntimeError: One was.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A scoring process was ended from outside, perhaps because memory is short: give "
            "BSSEval fewer processes (or less waiting_gb), and go on with --ckpt_path last"
        ) from error


def is_score(name: str | None) -> bool:
    """Whether a metric is one that BSS Eval gives for a validation.

    Args:
        name: Name of the metric, such as ``val/sdr/vocals``.
    """
    split, _, metric = (name or "").partition("/")
    return split == "val" and metric.partition("/")[0] in _SCORES


def check_monitors(trainer: Trainer) -> None:
    """See that nothing but ``Checkpoints``, which waits for them, watches scores that come late.

    Args:
        trainer: The trainer, its schedulers included.

    Raises:
        MonitorError: Something does.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    watchers = [(each, getattr(each, "monitor", None)) for each in callbacks]
    watchers += [
        (config.scheduler, config.monitor)
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
    ]
    for watcher, monitor in watchers:
        if is_score(monitor) and not isinstance(watcher, Checkpoints):
            raise MonitorError(
                f"{type(watcher).__name__} has monitor: {monitor}, which with blocking: false of "
                "BSSEval is not known before the next validation; give it monitor: val/loss, or "
                "set blocking: true"
            )


@contextmanager
def state_of(model: LightningModule, weights: Mapping[str, Any]) -> Iterator[None]:
    """Give a model another state for a while, that of a validation.

    Args:
        model: The model; it is as it was afterwards.
        weights: Its ``state_dict`` of then.
    """
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

"""How fast the training runs, and how much of the time it waits for data."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.base import SourceSeparator


class Throughput(Callback):
    """Log examples and seconds of audio per second, and the share of time spent waiting.

    Logged every ``log_every_n_steps`` steps, over the steps since: ``train/examples_per_second``
    and ``train/audio_seconds_per_second`` over all ranks, ``train/data_wait`` in [0, 1].
    The first step of an epoch, which waits for the loader to start, is left out.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._waited = self._worked = 0.0
        self._examples = 0
        self._audio_seconds = 0.0
        self._ended: float | None = None
        self._began: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure each epoch afresh: validation lies between them."""
        self._restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out a validation in the middle of an epoch."""
        self._ended = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last batch as waiting."""
        self._began = time.perf_counter()
        if self._ended is not None:
            self._waited += self._began - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step, and log when it is time."""
        now = time.perf_counter()
        if self._ended is not None and self._began is not None:
            assert isinstance(pl_module, SourceSeparator)
            self._worked += now - self._began
            examples, _, samples = batch.mixture.shape
            self._examples += examples * trainer.world_size
            self._audio_seconds += examples * trainer.world_size * samples / pl_module.sample_rate
        self._ended = now
        total = self._waited + self._worked
        if total > 0 and (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log_dict(
                {
                    "train/examples_per_second": self._examples / total,
                    "train/audio_seconds_per_second": self._audio_seconds / total,
                    "train/data_wait": self._waited / total,
                }
            )
            self._waited = self._worked = self._audio_seconds = 0.0
            self._examples = 0

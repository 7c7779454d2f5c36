"""Estimate of the time that a training still takes."""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer


class TimeLeft:
    """Estimates the rest of a training from the mean times of its batches and validations so far.

    Early stopping, which may end a run before its limits, is not foreseen.
    """

    def __init__(self) -> None:
        self._batches = self._batch_seconds = 0.0
        self._validations = self._validation_seconds = 0.0

    def add_batch(self, seconds: float) -> None:
        """Add the time of a batch."""
        self._batches += 1
        self._batch_seconds += seconds

    def add_validation(self, seconds: float) -> None:
        """Add the time of a validation."""
        self._validations += 1
        self._validation_seconds += seconds

    def seconds(self, trainer: Trainer, batches_of_epoch: int, validated: bool = False) -> float:
        """Estimate the seconds left, after a number of batches of the current epoch.

        Args:
            trainer: The trainer.
            batches_of_epoch: Number of batches that are done in the current epoch.
            validated: Whether a validation that follows the last of them is done, too.

        Returns:
            The estimate; NaN if it is not known: the run has no limit, or no batch or, if one is
            still to come, no validation was timed yet.
        """
        done = trainer.current_epoch * trainer.num_training_batches + batches_of_epoch
        total = _last_batch(trainer, done)
        past = _validations_until(trainer, done if validated else done - 1)
        # At least this long, as far as times are known.
        left, is_known = math.inf, False
        if math.isfinite(total):
            batches, validations = total - done, _validations_until(trainer, total) - past
            left = batches * _mean(self._batch_seconds, self._batches)
            left += validations * _mean(self._validation_seconds, self._validations)
            is_known = bool(self._batches and (self._validations or not validations))
        timers: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        times = [each.time_remaining() for each in timers if isinstance(each, Timer)]
        limit = min((time for time in times if time is not None), default=math.inf)
        if math.isfinite(limit) and limit <= left:
            return limit
        return left if is_known else math.nan


def _mean(total: float, number: float) -> float:
    return total / number if number else 0.0


def _last_batch(trainer: Trainer, done: float) -> float:
    """Number of batches of the whole run, infinite without a limit."""
    limits = [math.inf]
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * trainer.num_training_batches)
    if trainer.max_steps not in (None, -1):
        steps = trainer.max_steps - trainer.global_step
        limits.append(done + steps * trainer.accumulate_grad_batches)
    return max(done, min(limits))


def _validations_until(trainer: Trainer, batches: float) -> float:
    """Number of validations of the first batches of a run."""
    every, in_epoch = trainer.val_check_batch, trainer.num_training_batches
    if not every or math.isinf(every):
        return 0
    if trainer.check_val_every_n_epoch is None:
        return batches // every
    epochs, rest = divmod(batches, in_epoch)
    validated, unfinished = divmod(epochs, trainer.check_val_every_n_epoch)
    number = validated * (in_epoch // every)
    if unfinished + 1 == trainer.check_val_every_n_epoch:
        number += rest // every
    return number

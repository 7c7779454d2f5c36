"""Save the state that Lightning leaves out of checkpoints, so that runs resume exactly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason

from lightning_modules.callbacks.lightning_internals import (
    batches_done,
    finish_resumed_epoch,
    restore_loops,
    resumable_counters,
)

_KEY = "exact_resume"
# Part of the seed, so that training and validation have independent random numbers.
_TRAINING, _VALIDATION = 0, 1


class ExactResume(Callback):
    """Make a resumed run continue as if it had not been interrupted.

    On a CPU in float32, its weights are bit-identical to those of an uninterrupted run. On other
    devices and in other precisions, examples and seeds are the same, but bit-identical weights
    are not guaranteed.

    Before each training batch and each validation, the random generators of torch, NumPy and
    Python are seeded with (seed, training or validation, number of batches so far, rank).
    Dropout and other random numbers therefore depend only on the position in the run, as the
    training examples do, and no generator state needs to be saved.

    Checkpoints may be written between any two batches and after any validation. Lightning 2.6
    does not resume correctly from all of these points. From the end of an epoch, it skips the
    validation. From within an epoch, it later skips the step of a scheduler that monitors a
    metric. Lightning's progress counters are therefore corrected before they are saved. The
    metrics that schedulers and early stopping monitor are saved too.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._loaded: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the seed that ``seed_everything`` has set."""
        self._seed, self._loaded = torch.initial_seed(), {}

    # ------------------------------------------------------------ generators

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators for a batch."""
        self._seed_generators(trainer, pl_module, _TRAINING)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the generators for a validation."""
        self._seed_generators(trainer, pl_module, _VALIDATION)

    def _seed_generators(self, trainer: Trainer, model: LightningModule, purpose: int) -> None:
        position = (self._seed, purpose, batches_done(trainer), trainer.global_rank)
        words = np.random.SeedSequence(position).generate_state(4).tolist()
        # Not torch.manual_seed: it looks for devices at each call, which takes longer.
        seed = words[0] << 32 | words[1]
        torch.default_generator.manual_seed(seed)
        if model.device.type != "cpu":
            torch.get_device_module(model.device).manual_seed(seed)
        np.random.seed(words[2])
        random.seed(words[3])

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the seed and the metrics to the checkpoint, and correct its progress counters."""
        if trainer.state.fn != "fit":
            return
        metrics = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        awaits_end = resumable_counters(trainer, checkpoint["loops"]["fit_loop"])
        checkpoint[_KEY] = {"seed": self._seed, "metrics": metrics, "awaits_end": awaits_end}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the entries that ``on_save_checkpoint`` added."""
        if trainer.state.fn == "fit" and _KEY in checkpoint:
            self._loaded = checkpoint[_KEY]
            self._seed = self._loaded["seed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what Lightning's loops have reset since the checkpoint was loaded."""
        if not self._loaded:
            return
        trainer.callback_metrics.update(self._loaded["metrics"])
        restore_loops(trainer, self._loaded["awaits_end"])
        trainer.should_stop = any(
            isinstance(callback, EarlyStopping)
            and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        if trainer.should_stop:
            trainer.print("Early stopping has ended this run; a larger patience continues it")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the next epoch start at its first batch, even if this one had none left."""
        finish_resumed_epoch(trainer)

"""What Lightning leaves out of a checkpoint, so that a resumed run goes on to the bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason

from lightning_modules.callbacks.lightning_internals import (
    batches_done,
    epoch_is_through,
    validation_follows,
)

_KEY = "exact_resume"
# What the generators are set for; unlike purposes have independent streams.
_TRAINING, _VALIDATION = 0, 1


class ExactResume(Callback):
    """Let a resumed run go on as if it had never stopped.

    Before each training batch and each validation the random generators of torch, NumPy and
    Python are set from (seed, batches so far, rank). So dropout and whatever else draws from
    them is a function of the position in the run, as the examples are, and nothing of them
    need be kept, for any number of ranks.

    Checkpoints may be written between any two batches and after any validation. Lightning
    2.6 goes on rightly from some of these moments only: at the end of an epoch it leaves out
    the validation, and after a restart in mid-epoch the step of a scheduler that watches a
    metric. Its counters are therefore saved in the form that it does go on from, together
    with the metrics that schedulers and early stopping look at.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._loaded: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run's seed from where ``seed_everything`` put it."""
        self._seed, self._loaded = torch.initial_seed(), {}

    # ------------------------------------------------------------ generators

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the generators for a batch."""
        self._set_generators(trainer, pl_module, _TRAINING)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the generators for a validation."""
        self._set_generators(trainer, pl_module, _VALIDATION)

    def _set_generators(self, trainer: Trainer, model: LightningModule, purpose: int) -> None:
        position = (self._seed, purpose, batches_done(trainer), trainer.global_rank)
        words = np.random.SeedSequence(position).generate_state(4).tolist()
        # The long way round torch.manual_seed, which takes longer to look for devices.
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
        """Add seed and metrics, and put the loop's counters right."""
        if trainer.state.fn != "fit":
            return
        metrics = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        awaits_end = _settle_counters(trainer, checkpoint["loops"]["fit_loop"])
        checkpoint[_KEY] = {"seed": self._seed, "metrics": metrics, "awaits_end": awaits_end}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over what was added."""
        if trainer.state.fn == "fit" and _KEY in checkpoint:
            self._loaded = checkpoint[_KEY]
            self._seed = self._loaded["seed"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back what the loops have reset since the checkpoint was loaded."""
        if not self._loaded:
            return
        trainer.callback_metrics.update(self._loaded["metrics"])
        # With all batches done, Lightning would otherwise look for one more before it validates.
        trainer.fit_loop.epoch_loop.val_loop._has_run = self._loaded["awaits_end"]
        # Left set until the epoch's end, it would cost a scheduler that watches a metric a step.
        trainer.fit_loop._restarting = False
        trainer.should_stop = any(
            isinstance(callback, EarlyStopping)
            and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the next epoch begin afresh, also when not a batch was left of this one."""
        trainer.fit_loop.epoch_loop.on_iteration_done()


def _settle_counters(trainer: Trainer, counters: dict[str, Any]) -> bool:
    """Rewrite the counters of the training loop so that Lightning goes on rightly from them.

    Within an epoch, and after a validation, those of the batches are right as they are.

    Returns:
        Whether nothing but the end of the epoch is left of it.
    """
    batches = counters["epoch_loop.batch_progress"]
    validation = counters["epoch_loop.val_loop.batch_progress"]
    epochs = counters["epoch_progress"]
    in_batch = batches["current"]["completed"] < batches["current"]["processed"]
    validates = in_batch and validation_follows(trainer)
    awaits_end = in_batch and not validates and epoch_is_through(trainer)
    epoch_is_over = epochs["current"]["processed"] == epochs["current"]["ready"]
    for part in ("total", "current"):
        # A validation that was to begin counts as begun; one that is through leaves no trace.
        begun = int(validates)
        validation[part].update(ready=begun, started=begun, processed=0, completed=0)
        if validates or awaits_end:
            batches[part]["completed"] = batches[part]["processed"]
        if epoch_is_over:
            epochs[part]["completed"] = epochs[part]["processed"]
    validation["is_last_batch"] = False
    if awaits_end:
        counters["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    if epoch_is_over:
        # A run that ends by steps goes on, if more are asked for, with the next epoch's first.
        batches["current"].update(ready=0, started=0, processed=0, completed=0)
        batches["is_last_batch"] = False
    return awaits_end

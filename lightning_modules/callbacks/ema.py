"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks.lightning_internals import (
    WeightAveragingBase,
    is_last_batch_of_epoch,
)


class EMA(WeightAveragingBase):
    """Validate, save and later load an average of the weights over the last steps or epochs.

    After every step, or at the end of every epoch and before its validation,

        average <- d average + (1 - d) weights,    d = min(decay, (1 + n) / (10 + n)),

    with n the number of updates so far; the first one copies the weights. The averaging is
    that of Polyak and Juditsky 1992 ("Acceleration of stochastic approximation by averaging")
    with exponential weights, and the smaller d of the first updates is that of TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``. Defossez 2021 ("Hybrid spectrogram and
    waveform source separation", section 4.2) averages per step and per epoch for separation.

    Floating-point buffers, such as batch normalisation statistics, are averaged like the
    weights; others, such as the batch counter of batch normalisation, are copied.

    A checkpoint holds the average as the model's ``state_dict``, so ``best.ckpt`` is what
    ``val/sdr`` was measured with and what ``load_separator`` loads; the trained weights are
    stored beside it. Before the first update the average equals the weights. Each rank holds
    a complete average, so strategies that shard the model raise an error.

    Args:
        decay: The largest d, in [0, 1): averages over about 1 / (1 - decay) updates.
        every: Update after each optimiser ``step`` or each ``epoch``.
        warm_up: Whether d rises to ``decay``, or is ``decay`` from the start.
    """

    def __init__(
        self, decay: float = 0.999, every: Literal["step", "epoch"] = "step", warm_up: bool = True
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: give a number from 0 on and below 1")
        super().__init__(multi_avg_fn=self._update)
        self.decay, self.every, self.warm_up = decay, every, warm_up

    def _update(self, averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
        """Update averages; torch calls it with tensors of one type and device."""
        if not averages[0].is_floating_point() and not averages[0].is_complex():
            torch._foreach_copy_(averages, weights)
            return
        done = self.updates
        decay = min(self.decay, (1 + done) / (10 + done)) if self.warm_up else self.decay
        # Constant buffers stay exactly constant: lerp adds a multiple of the difference, 0.
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @property
    def updates(self) -> int:
        """Number of updates so far."""
        assert self.average is not None
        # The tensor is on the CPU, so reading it does not wait for the GPU.
        return int(self.average.n_averaged)

    def _copy_before_first_update(self, model: LightningModule) -> None:
        """Set the average to the weights as long as nothing was averaged."""
        assert self.average is not None
        if self.updates == 0:
            self.average.module.load_state_dict(model.state_dict())

    # ------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the model's device.

        Raises:
            ValueError: The strategy shards the model.
        """
        assert self.average is not None
        average = self.average.module.to(pl_module.device)
        ours, theirs = average.state_dict(), pl_module.state_dict()
        if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
            raise ValueError(
                f"EMA needs the complete model on each rank, but {type(trainer.strategy).__name__} "
                "shards it: use --trainer.strategy=ddp, or train without EMA"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average after an optimiser step, or after the last batch of an epoch."""
        # on_train_epoch_end would come after the epoch's validation.
        if self.every == "step" or is_last_batch_of_epoch(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self.average is not None:
            self._copy_before_first_update(pl_module)
            super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the trained weights in the model: a checkpoint may still be written."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the average into the model."""
        self._copy_before_first_update(pl_module)
        self.copy_average_to(pl_module)

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model's weights, and the trained weights beside it."""
        if self.average is not None:
            self._copy_before_first_update(pl_module)
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both; outside a training, the model loads the average."""
        if self.average is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

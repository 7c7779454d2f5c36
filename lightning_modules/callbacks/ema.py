"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Validate, save and later load an average of the weights over the last steps or epochs.

    After every step, or at the end of every epoch and before its validation,

        average <- d average + (1 - d) weights,    d = min(decay, (1 + n) / (10 + n)),

    with n the number of updates so far; the first one copies the weights. The averaging is
    that of Polyak and Juditsky 1992 ("Acceleration of stochastic approximation by averaging")
    with exponential weights, and the smaller d of the first updates is that of TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``. Defossez 2021 ("Hybrid spectrogram and
    waveform source separation", section 4.2) averages per step and per epoch for separation.

    Floating-point buffers, such as the statistics of batch normalisation, are averaged like
    the weights that they belong to; others, such as its counter, are copied.

    A checkpoint holds the average as the model's ``state_dict``, so ``best.ckpt`` is what
    ``val/sdr`` was measured with and what ``load_separator`` loads, and the weights being
    trained beside it. Until the first update the weights stand for their average. Each rank
    holds a whole average: strategies that share a model out over ranks are refused.

    Args:
        decay: The largest d, in [0, 1): averages over about 1 / (1 - decay) updates.
        every: Update after each ``step`` of the optimiser or each ``epoch``.
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
        """Move averages towards weights; torch calls it with tensors of one type and device."""
        if not averages[0].is_floating_point() and not averages[0].is_complex():
            torch._foreach_copy_(averages, weights)
            return
        done = int(self._updates())
        decay = min(self.decay, (1 + done) / (10 + done)) if self.warm_up else self.decay
        # A constant buffer stays what it is: lerp adds a part of the difference, which is 0.
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def _updates(self) -> Tensor:
        assert self._average_model is not None
        # Stays on the CPU, so that asking for it does not wait for the GPU.
        updates: Tensor = self._average_model.n_averaged
        return updates

    def _follow(self, model: LightningModule) -> None:
        """Let the weights stand for the average until there is one."""
        assert self._average_model is not None
        if self._updates() == 0:
            self._average_model.module.load_state_dict(model.state_dict())

    # ------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to where the weights are by now."""
        assert self._average_model is not None
        average = self._average_model.module.to(pl_module.device)
        ours, theirs = average.state_dict(), pl_module.state_dict()
        if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
            raise ValueError(
                f"EMA needs the whole model on each rank, which {type(trainer.strategy).__name__} "
                "shares out: use --trainer.strategy=ddp, or train without EMA"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average when a step was made, or with the last one of an epoch."""
        # Not at the epoch's end, which comes after its validation.
        if self.every == "step" or trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self._average_model is not None:
            self._follow(pl_module)
            super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the weights alone: a checkpoint may still be written."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model."""
        self._follow(pl_module)
        self._copy_average_to_current(pl_module)

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model's weights, and the weights beside it."""
        if self._average_model is not None:
            self._follow(pl_module)
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both; outside of a training the average alone is what is wanted."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

"""Several exponential moving averages of the weights, of which the best is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import Batch
from datamodules.stream.datasets import WholeTracks
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.ema import EMA


class BestEMA(Callback):
    """Keep several averages of the weights; validate and save the one with the lowest loss.

    Before each validation, the loss of every average on the validation crops is computed and
    logged as ``val/ema/<step or epoch>_<decay>``. The best one is then validated and saved as
    ``EMA`` does with its only one. Rouard, Massa and Defossez 2023 ("Hybrid transformers for music
    source separation") choose among two averages per step and two per epoch in this way.

    Each average takes as much memory as the weights, and checkpoints hold all of them.

    Args:
        per_step: Decay of each average that is updated after optimiser steps; see ``EMA``.
        per_epoch: Decay of each average that is updated at the end of epochs.
        warm_up: Whether the decays rise at the start; see ``EMA``.
    """

    def __init__(
        self,
        per_step: Sequence[float] = (0.9995, 0.9999),
        per_epoch: Sequence[float] = (),
        warm_up: bool = True,
    ) -> None:
        self.averages = {f"step_{decay:g}": EMA(decay, "step", warm_up) for decay in per_step}
        self.averages |= {f"epoch_{decay:g}": EMA(decay, "epoch", warm_up) for decay in per_epoch}
        if len(self.averages) < 2 or len(self.averages) < len(per_step) + len(per_epoch):
            raise ValueError(
                f"per_step is {list(per_step)} and per_epoch {list(per_epoch)}: give at least two "
                "different averages, or use EMA"
            )
        self.best = 0

    @property
    def chosen(self) -> EMA:
        """The average with the lowest loss in the last validation, before it the first one."""
        return list(self.averages.values())[self.best]

    # ------------------------------------------------------------ hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the averages."""
        for average in self.averages.values():
            average.setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the averages to the model's device."""
        for average in self.averages.values():
            average.on_fit_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the averages."""
        for average in self.averages.values():
            average.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the best average and validate it."""
        if self.chosen.average is None:
            return
        losses = []
        for name, average in self.averages.items():
            average.on_validation_epoch_start(trainer, pl_module)
            loss = _crops_loss(trainer, pl_module)
            average.on_validation_epoch_end(trainer, pl_module)
            pl_module.log(f"val/ema/{name}", loss)
            losses.append(loss if math.isfinite(loss) else math.inf)
        self.best = losses.index(min(losses))
        self.chosen.on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trained weights."""
        self.chosen.on_validation_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the best average into the model."""
        self.chosen.on_fit_end(trainer, pl_module)

    # ------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Number of the best average, and state of each."""
        return {"best": self.best, "each": [each.state_dict() for each in self.averages.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.best = state_dict["best"]
        for average, state in zip(self.averages.values(), state_dict["each"], strict=True):
            average.load_state_dict(state)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the best average as the model's weights; trained weights and others beside it."""
        if self.chosen.average is None:
            return
        self.chosen.on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["averages"] = {
            "best": self.best,
            "others": [
                None if average is self.chosen or average.average is None
                # Before the first update, the state is that of the start.
                else average.average.state_dict()
                for average in self.averages.values()
            ],
        }  # fmt: skip

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore all; a checkpoint without averages starts them with its weights."""
        saved = checkpoint.get("averages")
        if saved is None:
            for average in self.averages.values():
                average.on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        self.best = saved["best"]
        self.chosen.on_load_checkpoint(trainer, pl_module, checkpoint)
        for average, state in zip(self.averages.values(), saved["others"], strict=True):
            if state is not None and average.average is not None:
                average.average.load_state_dict(state)


def _crops_loss(trainer: Trainer, module: LightningModule) -> float:
    """Mean loss of a model on the validation crops of all ranks, in evaluation mode."""
    assert isinstance(module, SourceSeparator)
    sums = torch.zeros(2, device=module.device)
    with trainer.precision_plugin.val_step_context():
        for batch in _crops(trainer):
            examples = batch.mixture.shape[0]
            loss: Tensor = module.loss(batch)["loss"].detach()
            sums += torch.stack([loss.float() * examples, loss.new_tensor(examples).float()])
    total, examples = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
    return float(total / examples) if examples else math.nan


def _crops(trainer: Trainer) -> Iterator[Batch]:
    """This rank's batches of validation crops, on the model's device."""
    loaders: Any = trainer.val_dataloaders
    for number, loader in enumerate(loaders if isinstance(loaders, list) else [loaders]):
        if isinstance(loader.dataset, WholeTracks):
            continue
        # Not the loader itself: its workers are reading for the validation that starts. A generator
        # of its own leaves the random numbers of the run as they are.
        again = DataLoader(
            loader.dataset,
            loader.batch_size,
            sampler=loader.sampler,
            collate_fn=loader.collate_fn,
            generator=torch.Generator(),
        )
        for batch in islice(again, int(trainer.num_val_batches[number])):
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=number)

"""Batches whose loss is not a number or infinite."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.lightning_internals import batches_done


class LossError(ValueError):
    """The loss stays NaN or infinite; the message says since when and what to try."""


class SkipNonFinite(Callback):
    """Leave out the step of a batch whose loss is NaN or infinite, and end a run of them.

    If one rank has such a loss, no rank makes the step: the weights would differ otherwise.
    The ranks agree before the backward pass, by an all-reduce of one number per batch. When
    gradients are accumulated, the whole step that the batch is a part of is left out, as it
    would be if the batch were not cut in parts. A left-out step counts as a step to
    schedulers, and the loss scaler of 16-bit training does not see it: infinite gradients of
    a finite loss stay its own business.

    Each one is reported with the positions (epoch, index) of its examples over all ranks, and
    their number so far is logged each epoch as ``train/skipped_batches``.

    Args:
        most_in_a_row: The run ends with a ``LossError`` at this many in a row.
    """

    def __init__(self, most_in_a_row: int = 10) -> None:
        if most_in_a_row < 1:
            raise ValueError(f"most_in_a_row is {most_in_a_row}: give a number from 1 on")
        self.most_in_a_row = most_in_a_row
        self.skipped = self.in_a_row = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step with a clean slate."""
        assert isinstance(pl_module, SourceSeparator)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            pl_module.step_is_skipped = False

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss, together with the other ranks.

        Raises:
            LossError: It was one too many.
        """
        assert isinstance(pl_module, SourceSeparator)
        finite = bool(torch.isfinite(loss))
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            self.in_a_row = 0
            return
        pl_module.step_is_skipped = True
        self.skipped += 1
        self.in_a_row += 1
        report = self._report(trainer, float(loss.detach()))
        rank_zero_warn(f"{report} The step is left out.")
        if self.in_a_row >= self.most_in_a_row:
            raise LossError(f"{report} {self._advice(pl_module)}")

    def _report(self, trainer: Trainer, loss: float) -> str:
        mine = (loss, getattr(trainer.datamodule, "positions", []))  # type: ignore[attr-defined]
        ranks = [mine]
        if trainer.world_size > 1:
            ranks = [mine] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        # Of a finite one this is no figure to show: scaled, and a part of a sum.
        losses = ", ".join("finite" if math.isfinite(loss) else f"{loss:g}" for loss, _ in ranks)
        examples = " ".join(f"({epoch}, {index})" for _, part in ranks for epoch, index in part)
        return (
            f"Training loss of batch {batches_done(trainer)} is {losses}: {self.in_a_row} in a "
            f"row, {self.skipped} in all; its examples (epoch, index): {examples or 'unknown'}."
        )

    def _advice(self, model: SourceSeparator) -> str:
        spoilt = [name for name, value in model.named_parameters() if not value.isfinite().all()]
        if spoilt:
            found = (
                f"The weights are not finite ({', '.join(spoilt[:3])}), so an earlier step spoilt "
                "them: go on from an earlier checkpoint"
            )
        else:
            found = "The weights are finite, and --ckpt_path last goes on before these batches"
        return (
            f"{found}, with a lower learning rate, --trainer.gradient_clip_val=1, or "
            "--trainer.precision=32; `python -m datamodules.doctor` finds bad samples"
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many there were since the start of the run."""
        pl_module.log("train/skipped_batches", float(self.skipped))

    def state_dict(self) -> dict[str, int]:
        """Keep the counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on with the counts of a checkpoint.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

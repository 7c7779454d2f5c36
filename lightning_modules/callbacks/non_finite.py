"""Skip batches whose loss is NaN or infinite."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.command_line import program
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.lightning_internals import batches_done
from lightning_modules.runtime import signals


class LossError(ValueError):
    """The loss stays NaN or infinite; the message names the batches and what to try."""


class SkipNonFinite(Callback):
    """Skip the step of a batch whose loss is NaN or infinite; stop after many in a row.

    If one rank has such a loss, no rank makes the step: the weights would differ otherwise.
    The ranks agree by one all-reduce per batch, which also carries stop requests for
    ``Checkpoints``. Its result is read after the backward pass has been queued, so that a GPU
    does not wait for the host; gradients of a skipped step are never used.

    When gradients are accumulated, the whole step of the batch is skipped, as it would be if
    the batch were not split. A skipped step counts as a step for schedulers. The loss scaler
    of 16-bit training does not see it; infinite gradients of a finite loss are left to it.

    Each skipped batch is reported with the positions (epoch, index) of its examples over all
    ranks, and their number so far is logged each epoch as ``train/skipped_batches``.

    Args:
        most_in_a_row: The run ends with a ``LossError`` at this many in a row.
    """

    def __init__(self, most_in_a_row: int = 10) -> None:
        if most_in_a_row < 1:
            raise ValueError(f"most_in_a_row is {most_in_a_row}: give 1 or more")
        self.most_in_a_row = most_in_a_row
        self.skipped = self.in_a_row = 0
        self._loss = self._flags = torch.zeros(())
        self._copied: torch.cuda.Event | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start a new optimiser step."""
        assert isinstance(pl_module, SourceSeparator)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            pl_module.step_is_skipped = False

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Start to ask all ranks for a non-finite loss and a stop request."""
        self._loss = loss.detach()
        not_finite = ~torch.isfinite(self._loss).all()
        # full_like fills on the device; copying a Python value there would wait for it.
        stops = torch.full_like(not_finite, signals.received is not None)
        self._flags = flags = torch.stack([not_finite, stops]).to(torch.int32)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        if flags.is_cuda:
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip the step if any rank's loss is not finite.

        Raises:
            LossError: There were too many in a row.
        """
        assert isinstance(pl_module, SourceSeparator)
        if self._copied is not None:
            # Waits for what was queued before the copy; the backward pass goes on meanwhile.
            self._copied.synchronize()
        not_finite, stops = self._flags.tolist()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.stop_agreed = bool(stops)
        if not not_finite:
            self.in_a_row = 0
            return
        pl_module.step_is_skipped = True
        self.skipped += 1
        self.in_a_row += 1
        report = self._report(trainer, float(self._loss))
        rank_zero_warn(f"{report} The step is skipped.")
        if self.in_a_row >= self.most_in_a_row:
            raise LossError(f"{report} {advice(pl_module)}")

    def _report(self, trainer: Trainer, loss: float) -> str:
        mine = (loss, getattr(trainer.datamodule, "positions", []))  # type: ignore[attr-defined]
        ranks = [mine] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, mine)
        # The value of a finite loss would mislead: it may be scaled, and one part of a sum.
        losses = ", ".join("finite" if math.isfinite(loss) else f"{loss:g}" for loss, _ in ranks)
        examples = " ".join(f"({epoch}, {index})" for _, part in ranks for epoch, index in part)
        return (
            f"Training loss of batch {batches_done(trainer)} is {losses}: {self.in_a_row} in a "
            f"row, {self.skipped} in total; its examples (epoch, index): {examples or 'unknown'}."
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of skipped batches since the start of the run."""
        pl_module.log("train/skipped_batches", float(self.skipped), sync_dist=True)

    def state_dict(self) -> dict[str, int]:
        """Counts to save."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the counts."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def advice(model: SourceSeparator) -> str:
    """What to do about non-finite losses, depending on whether the weights are finite."""
    broken = [name for name, value in model.named_parameters() if not value.isfinite().all()]
    if broken:
        found = (
            f"The weights are not finite ({', '.join(broken[:3])}), so an earlier step corrupted "
            "them: resume from an earlier checkpoint"
        )
    else:
        found = "The weights are finite, and --ckpt_path last resumes before these batches"
    return (
        f"{found}, with a lower learning rate, --trainer.gradient_clip_val=1, or "
        f"--trainer.precision=32; `{program('datamodules.doctor')} ROOT` finds bad samples"
    )

"""The progress bar."""

from __future__ import annotations

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """Lightning's bar, quiet in log files and without the version number.

    A terminal sees every batch; a file, such as a SLURM job's output, gets a
    line now and then.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() or sys.stdout.isatty() else 100)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Show what is logged for the bar, the loss and the last score."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        for name in ("train/loss", "val/sdr"):
            if name in trainer.callback_metrics:
                metrics[name] = float(trainer.callback_metrics[name])
        return metrics

"""The progress bar."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """Lightning's progress bar with few lines in log files and without the version number.

    It is updated at every batch in a terminal, and at every hundredth in a file, such as the
    output of a SLURM job.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() or sys.stdout.isatty() else 100)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the bar's line, so that a message begins a new one."""
        with suppress(TypeError):  # there is no bar
            self.train_progress_bar.close()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Metrics that are logged for the bar, the loss and the last score."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        for name in ("train/loss", "val/sdr"):
            if name in trainer.callback_metrics:
                metrics[name] = float(trainer.callback_metrics[name])
        return metrics

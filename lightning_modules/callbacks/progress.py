"""The progress bar."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lightning_modules.callbacks.lightning_internals import ProgressBarBase

# Updates of a bar in a file. Each is a line.
_UPDATES = 20
_UNKNOWN_LENGTH = 100


class Progress(ProgressBarBase):
    """Lightning's progress bar with few lines in log files and without the version number.

    It is updated at every batch in a terminal, and about twenty times per epoch, validation or
    test in a file or pipe, such as the output of a SLURM job.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_terminal = sys.stderr.isatty() or sys.stdout.isatty()

    def is_due(self, current: int, total: int | float | None) -> bool:
        """Whether to show that ``current`` of ``total`` batches are done."""
        if self.in_terminal or current == total:
            return True
        if total is None or math.isinf(total):
            return current % _UNKNOWN_LENGTH == 0
        return current % max(1, int(total // _UPDATES)) == 0

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a message on a line of its own; in a file, the bar has left its line open."""
        if not self.in_terminal:
            sys.stdout.write("\n")
        super().print(*args, **kwargs)

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

"""The progress bar."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from tqdm import tqdm

from datamodules.batches import TrackBatch
from datamodules.command_line import printable
from lightning_modules.callbacks.lightning_internals import ProgressBarBase
from lightning_modules.callbacks.throughput import TIME_LEFT, format_seconds

# Lines about an epoch in a file.
_UPDATES = 20
_UNKNOWN_LENGTH = 100
_FILE_FORMAT = "{desc}{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_LOGGERS = ("pytorch_lightning", "lightning_fabric")
_NAME_CHARACTERS = 40


class _AboveBars:
    """Stream that writes whole lines to another one, above the bars of a terminal.

    Args:
        stream: What is written to.
        screen: The stream of the bars.
    """

    def __init__(self, stream: TextIO, screen: TextIO) -> None:
        self._stream, self._screen, self._rest = stream, screen, ""
        self._process = os.getpid()

    def write(self, text: str) -> int:
        """Write whole lines; keep the rest until its end comes."""
        if os.getpid() != self._process:  # a forked loader worker, which has copies of the bars
            return self._stream.write(text)
        lines, end, self._rest = (self._rest + text).rpartition("\n")
        if end:
            with Tqdm.external_write_mode(file=self._screen):
                self._stream.write(lines + end)
                self._stream.flush()
        return len(text)

    def close(self) -> None:
        """Write what is left, and a line's end."""
        if self._rest:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Progress(ProgressBarBase):
    """Lightning's progress bar with the time that is left, and lines in log files.

    In a terminal it is updated at every batch, and whatever is printed meanwhile is shown above
    it. In a file or pipe, such as the output of a SLURM job, about twenty lines are printed per
    epoch, validation or test.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_terminal = sys.stdout.isatty()
        self._open = ExitStack()
        self._screen: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let bars and other output share the terminal, or let the bars write nowhere."""
        super().setup(trainer, pl_module, stage)
        self._open.close()
        if not self.in_terminal:
            self._screen = self._open.enter_context(open(os.devnull, "w"))  # noqa: SIM115
        elif self.is_enabled:
            self._share_terminal()

    def _share_terminal(self) -> None:
        self._screen = screen = sys.stdout
        out, errors = (_AboveBars(stream, screen) for stream in (sys.stdout, sys.stderr))
        for name in _LOGGERS:
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
                    self._open.callback(handler.setStream, handler.setStream(cast(TextIO, errors)))
        for stream, redirect in ((out, redirect_stdout), (errors, redirect_stderr)):
            self._open.callback(stream.close)
            self._open.enter_context(redirect(cast(TextIO, stream)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the terminal to others."""
        self._open.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the bars' lines, so that a message begins a new one."""
        for bar in self.bars():
            bar.close()
        self._open.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line of the model, which Lightning would drop while no bar is open."""
        print(*args, **kwargs)

    # ------------------------------------------------------------------ bars

    def make_bar(self, make: Callable[[], Tqdm]) -> Tqdm:
        """Make a bar on the terminal, or one that is only printed."""
        with redirect_stdout(self._screen or sys.stdout):
            bar = make()
        if not self.in_terminal:
            bar.bar_format = _FILE_FORMAT
        return bar

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name what is validated: crops for the loss, then complete tracks."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        what = "tracks" if isinstance(batch, TrackBatch) else "loss"
        self.val_progress_bar.set_description(f"Validation, {what}")

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the track that is separated and scored."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.test_progress_bar.set_description(f"Test, {_short(batch.name)}")

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the track or file that is separated."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self.predict_progress_bar.set_description(f"Separation, {_short(batch.name)}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the training's bar."""
        metrics = self.get_metrics(trainer, pl_module)
        self._update(self.train_progress_bar, batch_idx + 1, metrics)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the validation's bar."""
        self._update(self.val_progress_bar, batch_idx + 1)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the test's bar."""
        self._update(self.test_progress_bar, batch_idx + 1)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the bar of the separated tracks."""
        self._update(self.predict_progress_bar, batch_idx + 1)

    def _update(self, bar: tqdm[Any], done: int, metrics: Mapping[str, Any] | None = None) -> None:
        if not self.is_enabled or not self.is_due(done, bar.total):
            return
        bar.set_postfix(metrics or {}, refresh=False)
        bar.n = done
        if self.in_terminal:
            bar.refresh()
        else:
            print(bar, flush=True)

    def is_due(self, current: int, total: int | float | None) -> bool:
        """Whether to show that ``current`` of ``total`` batches are done."""
        if self.in_terminal or current == total:
            return True
        if total is None or math.isinf(total):
            return current % _UNKNOWN_LENGTH == 0
        return current % max(1, int(total // _UPDATES)) == 0

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Metrics that are logged for the bar, the loss, the last score and the time left."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        logged = trainer.callback_metrics
        for name in ("train/loss", "val/sdr"):
            if name in logged:
                metrics[name] = float(logged[name])
        hours = float(logged.get(TIME_LEFT, math.nan))
        if not math.isnan(hours):
            metrics["run left"] = format_seconds(3600 * hours)
        return metrics


def _short(name: str) -> str:
    return printable(name)[:_NAME_CHARACTERS]

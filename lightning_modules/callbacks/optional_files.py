"""Files that a training can do without: logs, plots, audio and score files of a validation."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.command_line import describe
from datamodules.files.writing import writing_error

# W&B's own process writes to the disk, in blocks of 32 KiB, and reports no errors.
_WANDB_BYTES = 2**16
_METHODS = ("log_metrics", "log_hyperparams", "save", "finalize")


class OptionalFiles:
    """Context in which an error is reported, the first time, and training continues.

    Args:
        what: What is lost, for the message.
    """

    def __init__(self, what: str) -> None:
        self.what, self.failed = what, False

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Report and drop an error."""
        if not isinstance(error, Exception):
            return False
        if not self.failed:
            rank_zero_warn(
                f"{describe(error)}. The run continues without {self.what}; the next errors of "
                "this kind are not shown"
            )
        self.failed = True
        return True


def make_optional(logger: Logger) -> None:
    """Let a logger report its first error, such as a full disk, and lose entries after it."""
    threading.excepthook = _hide_writers
    guard = OptionalFiles(f"entries of {type(logger).__name__}")
    for name in _METHODS:
        if method := getattr(logger, name, None):
            setattr(logger, name, _guarded(method, logger, guard))


def _guarded(method: Callable[..., Any], logger: Any, guard: OptionalFiles) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        with guard, _log_kept(logger):
            return method(*arguments, **named)

    return call


@contextmanager
def _log_kept(logger: Any) -> Iterator[None]:
    """Name the log in errors; restore a CSV log that could be written only in part.

    Lightning's CSV logger keeps the rows that it could not write and tries again later, but
    truncates the file when it adds a column.
    """
    is_csv = isinstance(logger, CSVLogger)
    folder = Path(logger.log_dir if is_csv else logger.save_dir or ".")
    log = folder / "metrics.csv" if is_csv else folder / type(logger).__name__
    former = log.read_bytes() if is_csv and log.is_file() and _adds_column(logger) else None
    size = log.stat().st_size if is_csv and log.is_file() else 0
    try:
        yield
        if _is_offline(logger) and shutil.disk_usage(folder).free < _WANDB_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except Exception as error:
        if former is not None:
            log.write_bytes(former)
        elif is_csv and log.is_file():
            os.truncate(log, size)
        if fault := _system_error(error):
            raise writing_error(log, log, fault) from error
        raise


def _is_offline(logger: Any) -> bool:
    return isinstance(logger, WandbLogger) and bool(getattr(logger.experiment, "offline", False))


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's error that led to another one; TensorBoard raises a ``ValueError``."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        error = error.__cause__ or error.__context__
    return None


def _hide_writers(failed: threading.ExceptHookArgs) -> None:
    """Print errors of threads, but not of TensorBoard's, whose next call raises them again."""
    if not type(failed.thread).__module__.startswith("tensorboard"):
        threading.__excepthook__(failed)


def _adds_column(logger: Any) -> bool:
    experiment = logger.experiment
    return not set().union(*experiment.metrics) <= set(experiment.metrics_keys)

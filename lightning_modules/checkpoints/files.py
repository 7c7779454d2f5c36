"""Checkpoint files of a run: atomic writes, and search for the latest readable one."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.files.writing import writing_error
from datamodules.quiet import quiet
from datamodules.stream.workers import explain_worker_error
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import read_checkpoint

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
_PARTIAL = ".partial"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it once it is on disk.

    Renaming within a folder is atomic (POSIX ``rename``), so that a full disk or a kill during a
    save keeps the older file. A replaced ``last.ckpt`` is kept as ``previous.ckpt``, in case the
    newer file becomes corrupted on disk.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: Its contents.
            path: The file, on a local or mounted file system.
            storage_options: Must be None.

        Raises:
            CheckpointError: The file could not be written; older ones are intact.
        """
        if storage_options is not None:
            raise TypeError(f"storage_options is {storage_options!r}: None was expected")
        path = Path(path)
        partial = path.with_name(path.name + _PARTIAL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            partial.replace(path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            if explained := explain_worker_error(error):
                raise explained from error
            raise CheckpointError(_failure(path, partial, error)) from error


def save_separator(model: SourceSeparator, path: Path) -> None:
    """Write a checkpoint of a model without training.

    Raises:
        CheckpointError: The file could not be written.
    """
    saving = AtomicCheckpointIO()
    with quiet():
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, plugins=saving)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)


def _sync_folder(folder: Path) -> None:
    """Write the folder's entries to disk; the files' contents are there already."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(path: Path, partial: Path, error: Exception) -> str:
    """Remove a partly written checkpoint and return the error message."""
    # torch raises its own error after a failed write; the context holds the disk's.
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    fault = writing_error(path, partial, cause)
    with suppress(OSError):  # the folder may not exist
        partial.unlink()
    return f"{fault}; the older checkpoints are intact: then resume with --ckpt_path last"


def remove_partial(folder: Path) -> None:
    """Remove partial files of interrupted saves from a folder of checkpoints."""
    for path in folder.glob(f"*.ckpt{_PARTIAL}"):
        path.unlink(missing_ok=True)


def link_best(path: Path) -> None:
    """Link ``best.ckpt`` atomically to a checkpoint in the same folder."""
    beside = path.with_name(BEST + _PARTIAL)
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(path.name)
    except OSError:  # a file system without links
        shutil.copyfile(path, beside)
    beside.replace(path.with_name(BEST))


def latest_readable_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Find the checkpoint to resume from: ``last.ckpt``, or the newest readable one.

    Returns:
        The file and its contents.

    Raises:
        CheckpointError: None exists or can be read; the message names each.
    """
    others = [path for path in folder.glob("*.ckpt") if path.name not in (BEST, LAST)]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    last = folder / LAST
    # An interrupted save can leave no last.ckpt, only the previous one.
    candidates = [last, *others] if last.exists() else others
    faults = []
    for path in candidates:
        try:
            contents = read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if path != last:
            rank_zero_warn(f"{'; '.join(faults) or f'{last} is missing'}. Resuming from {path}.")
        return path, contents
    if not faults:
        raise CheckpointError(
            f"{folder}: there is no {LAST}; train first with `fit`, or give --run_dir or "
            "--ckpt_path of another run"
        )
    raise CheckpointError("; ".join(faults))

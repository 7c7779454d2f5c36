"""Callback that records what a run computes and marks the phase it is in."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks.lightning_internals import batches_done
from lightning_modules.endurance.markers import (
    ENDING,
    SAVING,
    START,
    TRAINING,
    VALIDATION,
    Marker,
    format_marker,
    marker_file,
    record_file,
)


class Recorder(Callback):
    """Record each batch and validation of a rank, and mark the phases of the run.

    A record is a JSON list: kind, number of training batches so far, and values. The values of a
    batch are the positions of its examples, its loss, and digests of the weights and of the random
    generator after it; those of a validation are a digest of the validated weights and its loss.
    Each start of a training has a record without values.

    Each line is written by one system call, so a kill leaves whole lines.
    """

    def __init__(self) -> None:
        self._visits: Counter[str] = Counter()
        self._phase = ""
        self._validated = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the files of this rank."""
        run_dir, rank = Path(trainer.default_root_dir), trainer.global_rank
        marker_file(run_dir, rank).parent.mkdir(exist_ok=True)
        flags = os.O_CREAT | os.O_WRONLY
        self._marker = os.open(marker_file(run_dir, rank), flags)
        self._records = os.open(record_file(run_dir, rank), flags | os.O_APPEND)

    def _mark(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self._visits[phase] += 1
            marker = Marker(phase, self._visits[phase], os.getpid())
            os.pwrite(self._marker, format_marker(marker), 0)

    def _record(self, trainer: Trainer, kind: str, *values: Any) -> None:
        line = json.dumps([kind, batches_done(trainer), *values])
        os.write(self._records, f"{line}\n".encode())

    # ------------------------------------------------------------ hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end of the start-up."""
        self._record(trainer, START)
        self._mark(TRAINING)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the training that goes on after a validation."""
        self._mark(TRAINING)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mark the training that goes on after a checkpoint."""
        self._mark(TRAINING)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a batch."""
        positions = trainer.datamodule.positions  # type: ignore[attr-defined]
        state = _weights(trainer, pl_module)
        generator = digest([torch.get_rng_state()])
        loss = float(outputs["loss"]).hex()
        self._record(trainer, "batch", positions, loss, state, generator)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark a validation."""
        self._mark(VALIDATION)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        """Note the validated weights."""
        self._validated = _weights(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a validation."""
        loss = float(trainer.callback_metrics["val/loss"]).hex()
        self._record(trainer, "validation", self._validated, loss)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Mark a checkpoint that is about to be written."""
        self._mark(SAVING)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end, which saves once more if scores came late."""
        self._mark(ENDING)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end after the last checkpoint."""
        self._mark(ENDING)


def _weights(trainer: Trainer, model: LightningModule) -> str:
    """Digest of a rank's weights and, on the first rank, its buffers.

    DDP copies the buffers of the first rank to the others only before some batches. Between them,
    each rank has its own batch statistics, which are used nowhere.
    """
    tensors = model.state_dict().values() if trainer.is_global_zero else model.parameters()
    return digest(tensors)


def digest(tensors: Iterable[Tensor]) -> str:
    """Digest of the bytes of tensors."""
    sha = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        sha.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return sha.hexdigest()

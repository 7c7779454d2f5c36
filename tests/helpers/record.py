"""Callbacks that record a training in files, and pause it for a test to send a signal."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.runtime import signals


class Recorder(Callback):
    """Write the examples and the loss of each step to ``record-<rank>.jsonl`` in the run directory.

    With ``PAUSE=<start>:<rank>:<step>`` in the environment, that rank writes its process id to
    ``paused-<start>`` after that step of that start, and waits for a signal.
    """

    def __init__(self) -> None:
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.start = int(os.environ.get("SLURM_RESTART_COUNT", restarts))
        self.pauses = os.environ.get("PAUSE", "").split()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        run_dir = Path(trainer.default_root_dir)
        rank, step = trainer.global_rank, trainer.global_step
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        line = {
            "start": self.start,
            "step": step,
            "ids": data.positions,
            "loss": outputs["loss"].item(),
        }
        with (run_dir / f"record-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        marker = run_dir / f"paused-{self.start}"
        if f"{self.start}:{rank}:{step}" in self.pauses and not marker.exists():
            marker.with_suffix(".part").write_text(str(os.getpid()))
            marker.with_suffix(".part").rename(marker)
            deadline = time.monotonic() + 60
            while signals.received is None and time.monotonic() < deadline:
                time.sleep(0.05)


def workers_of(trainer: int) -> list[int]:
    """Process ids of the loader workers of a training process, which are forks of it."""
    command = Path(f"/proc/{trainer}/cmdline").read_bytes()
    children = Path(f"/proc/{trainer}/task/{trainer}/children").read_text().split()
    return [int(c) for c in children if Path(f"/proc/{c}/cmdline").read_bytes() == command]


class Memory(Callback):
    """Write the resources in use at the end of each epoch to ``memory.jsonl`` in the run directory.

    These are the anonymous memory of this process, its mean over the loader's workers, and the
    numbers of open files and threads of this process.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        line = {
            "step": trainer.global_step,
            "bytes": self._own_bytes(os.getpid()),
            "worker_bytes": statistics.mean(map(self._own_bytes, workers_of(os.getpid()))),
            "files": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
        }
        with Path(trainer.default_root_dir, "memory.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    @staticmethod
    def _own_bytes(process: int) -> int:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return 1024 * sum(
            int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))
        )

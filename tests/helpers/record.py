"""A small training in another process that records its steps and can pause for a signal."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.runtime import signals

STEPS_PER_EPOCH, EPOCHS, BATCH_SIZE = 5, 3, 8
RECORDED_RUN: dict[str, Any] = {
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "lightning_modules.callbacks.checkpoints.Checkpoints"},
            {"class_path": "tests.helpers.record.Recorder"},
        ],
    },
    "model": {"init_args": {"channels": [4, 8], "n_fft": 512, "hop_length": 256, "dropout": 0.0}},
    "data": {
        "class_path": "datamodules.musdb.MUSDBDataModule",
        "init_args": {
            "segment_seconds": 0.2,
            "batch_size": BATCH_SIZE,
            "examples_per_epoch": STEPS_PER_EPOCH * BATCH_SIZE + 3,
            "validation_crops_per_track": 1,
            "num_workers": 0,
        },
    },
}
"""Config of a variant of unet.yaml."""


def write_config(folder: Path, root: Path, *callbacks: dict[str, Any], **data: Any) -> list[str]:
    """Write the config of a recorded run.

    Args:
        folder: Where to write it.
        root: The data set.
        *callbacks: Further callbacks.
        **data: Other arguments of the data module.

    Returns:
        Arguments of the command line.
    """
    config = json.loads(json.dumps(RECORDED_RUN))
    config["trainer"]["callbacks"] += callbacks
    config["data"]["init_args"] |= {"root": str(root), **data}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return ["--config", "unet.yaml", "--config", str(folder / "tiny.yaml")]


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

"""Names of a run's files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer


def state_name(epoch: int, step: int) -> str:
    """Name the state of a training after this number of steps, as checkpoints are named."""
    return f"epoch_{epoch:03d}-step_{step:06d}"


def run_folder(trainer: Trainer, *parts: str) -> Path:
    """Make a folder, given by its names from the top, in the run's directory."""
    folder = Path(trainer.default_root_dir, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

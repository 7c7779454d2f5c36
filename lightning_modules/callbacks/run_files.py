"""What files of a training are named after."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer


def moment(trainer: Trainer) -> str:
    """Name the state of a training, as its checkpoints are named.

    Args:
        trainer: The trainer.

    Returns:
        Epoch and step.
    """
    return moment_name(trainer.current_epoch, trainer.global_step)


def moment_name(epoch: int, step: int) -> str:
    """Name a state of a training.

    Args:
        epoch: Its epoch.
        step: Steps of the optimiser by then.

    Returns:
        The name.
    """
    return f"epoch_{epoch:03d}-step_{step:06d}"


def run_folder(trainer: Trainer, *parts: str) -> Path:
    """Make a folder in the run's directory.

    Args:
        trainer: The trainer.
        *parts: Names of the folder and those above it.

    Returns:
        The folder.
    """
    folder = Path(trainer.default_root_dir, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

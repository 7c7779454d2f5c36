"""Names of a run's files."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer


def state_name(epoch: int, step: int) -> str:
    """Name the state of a training, as checkpoints are named.

    Args:
        epoch: Its epoch.
        step: Optimiser steps so far.
    """
    return f"epoch_{epoch:03d}-step_{step:06d}"


def current_state_name(trainer: Trainer) -> str:
    """Name the current state of a training; see ``state_name``."""
    return state_name(trainer.current_epoch, trainer.global_step)


def run_folder(trainer: Trainer, *parts: str) -> Path:
    """Make a folder in the run's directory.

    Args:
        trainer: The trainer.
        *parts: Names of the folder and of those above it.

    Returns:
        The folder.
    """
    folder = Path(trainer.default_root_dir, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder

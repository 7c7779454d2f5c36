"""Other projects' weights files, read without executing code from them, and their sources."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from datamodules.tracks.layouts import STEMS
from lightning_modules.base.description import CheckpointError


def our_order(names: Iterable[str]) -> list[str]:
    """Sort sources into this project's order; others follow in the given order."""
    return sorted(names, key=lambda name: STEMS.index(name) if name in STEMS else len(STEMS))


def read_weights(path: Path) -> Any:
    """Read the contents of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, or contains executable code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # invalid pickles raise errors of any type
        refused = re.search(r"WeightsUnpickler error: (.*)", str(error))
        reason = str(refused[1] if refused else error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason[:120]}); copy or download it again, or "
            "save its state dict with the package"
        ) from error

"""Weights files of other projects' packages, read without running anything in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from lightning_modules.base.description import CheckpointError


def read_weights(path: Path) -> Any:
    """Read what a package saved by ``torch.save``.

    Args:
        path: The file.

    Returns:
        Its contents, on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything that would have to be run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle end in errors of all kinds
        refused = re.search(r"WeightsUnpickler error: (.*)", str(error))
        reason = str(refused[1] if refused else error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason[:120]}); copy or download it again, or "
            "save its state dict with the package"
        ) from error

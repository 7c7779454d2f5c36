"""Reading of other projects' weights files without executing code from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from lightning_modules.base.description import CheckpointError


def read_weights(path: Path) -> Any:
    """Read a file that ``torch.save`` wrote.

    Args:
        path: The file.

    Returns:
        Its contents, on the CPU.

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

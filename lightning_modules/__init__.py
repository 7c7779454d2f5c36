"""Models: architectures, training, separation, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from lightning_modules.base.separator import SourceSeparator


def load_separator(path: str | Path, map_location: str | torch.device = "cpu") -> SourceSeparator:
    """Load a trained separator; see ``lightning_modules.checkpoints.loading.load_separator``."""
    from lightning_modules.checkpoints.loading import load_separator  # imports torch

    return load_separator(path, map_location)

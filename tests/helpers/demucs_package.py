"""Networks of the `demucs` package."""

from __future__ import annotations

import torch

from lightning_modules.architectures.demucs import DemucsNetwork


def network(sources: int = 4) -> DemucsNetwork:
    """A small network of the package's first two versions."""
    torch.manual_seed(0)
    return DemucsNetwork([str(n) for n in range(sources)], 2, 4, 4, 2, True, False, False, False)

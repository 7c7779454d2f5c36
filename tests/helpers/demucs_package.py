"""Networks as the `demucs` package saves them."""

from __future__ import annotations

import torch

from lightning_modules.architectures.demucs import DemucsNetwork


def network(sources: int = 4) -> DemucsNetwork:
    """A small network as the package's first two versions have it, sources in their order."""
    torch.manual_seed(0)
    return DemucsNetwork([str(n) for n in range(sources)], 2, 4, 4, 2, True, False, False, False)

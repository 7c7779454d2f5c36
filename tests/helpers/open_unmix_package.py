"""Networks and files of the `openunmix` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openunmix.model
import openunmix.utils
import torch
from torch import nn

from tests.helpers.tracks import STEMS


def package_networks(
    sources: Sequence[str] = STEMS, n_fft: int = 512, channels: int = 2, **arguments: Any
) -> dict[str, nn.Module]:
    """Networks of the package, with random statistics instead of zeros and ones."""
    torch.manual_seed(0)
    networks = {}
    for name in sources:
        network = openunmix.model.OpenUnmix(
            n_fft // 2 + 1,
            channels,
            hidden_size=16,
            max_bin=n_fft * 16000 // 44100 + 1,
            **arguments,
        )
        for key, value in network.state_dict().items():
            if key.startswith(("input", "output", "bn")) and value.is_floating_point():
                value.copy_(0.5 + torch.rand_like(value))
        networks[name] = network.eval()
    return networks


def write(networks: dict[str, nn.Module], folder: Path, suffix: str = "", **settings: Any) -> None:
    """Write files as the package's training does."""
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"{name}{suffix}.pth")
    (folder / "separator.json").write_text(json.dumps({"sample_rate": 44100.0, **settings}))

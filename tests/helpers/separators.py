"""Separators without a network."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.base.waveform import WaveformSeparator


class Identity:
    """Returns its input as every source."""

    sources = ["vocals", "other"]  # noqa: RUF012
    sample_rate = 44100
    audio_channels = 2
    segment_seconds = 0.01

    def __init__(self) -> None:
        self.lengths: set[int] = set()

    def __call__(self, mixture: Tensor) -> Tensor:
        self.lengths.add(mixture.shape[-1])
        return torch.stack([mixture, mixture], 1)


class Half(Identity):
    """Splits its input into two halves."""

    def __call__(self, mixture: Tensor) -> Tensor:
        return torch.stack([mixture / 4, mixture * 3 / 4], 1)


class Gains(WaveformSeparator):
    """Each source is the mixture times a learned gain."""

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, sources: list[str], gain: float = 0.5, **kwargs: Any) -> None:
        super().__init__(sources, **kwargs)
        self.gains = nn.Parameter(torch.full((len(sources), 1, 1), gain))

    def forward(self, mixture: Tensor) -> Tensor:
        return mixture[:, None] * self.gains


TWO = ["vocals", "rest"]

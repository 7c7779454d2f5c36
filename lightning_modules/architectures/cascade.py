"""Cascade: a denoiser followed by a separator.

Li, "Deep denoising autoencoder for music source separation": the denoiser estimates clean music
from noisy, reverberant music, and the separator separates that estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.separation import apply


class Cascade(SourceSeparator):
    """Any denoiser followed by any separator.

    The two may differ in sample rate and number of channels. Sources, sample rate, channels and
    chunk length are the separator's.

    Args:
        denoiser: Checkpoint of a model with a single source.
        separator: Checkpoint of the separator.
        map_location: Device for both models.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
        ValueError: The denoiser has several sources.
    """

    tiny: ClassVar[Mapping[str, Any]] = {}
    loads_weights = True

    def __init__(
        self,
        denoiser: str | Path,
        separator: str | Path,
        map_location: str | torch.device = "cpu",
    ) -> None:
        first, second = (load_separator(path, map_location) for path in (denoiser, separator))
        if len(first.sources) != 1:
            raise ValueError(
                f"{denoiser}: the model has the sources {', '.join(first.sources)}, expected a "
                "denoiser with a single source; train one with denoising_autoencoder.yaml, or swap "
                "the two checkpoints"
            )
        super().__init__(
            second.sources,
            second.sample_rate,
            second.audio_channels,
            second.segment_seconds,
        )
        self.separation_settings = second.separation_settings
        self.denoiser, self.separator = first, second
        self.to(map_location).eval()

    def denoise(self, mixture: Tensor) -> Tensor:
        """Denoise mixtures (B, C, T) at the separator's sample rate; same shape."""
        return apply(self.denoiser, mixture, self.sample_rate)[:, 0]

    def forward(self, mixture: Tensor) -> Tensor:
        """Denoise mixtures (B, C, T), then separate them into estimates (B, S, C, T)."""
        estimates: Tensor = self.separator(self.denoise(mixture))
        return estimates

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The separator's loss on the denoised mixture, to fine-tune both models jointly."""
        return self.separator.loss(batch.with_audio(self.denoise(batch.mixture), batch.targets))

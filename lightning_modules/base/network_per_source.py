"""One network for each source."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.spectrogram import SpectrogramSeparator


class NetworkPerSource(SpectrogramSeparator):
    """A network for each source, which learns its own source's magnitudes from the mixture's.

    They are trained at once: the gradients of a sum are those of its parts, so that each
    network takes the steps that it would take alone.

    Attributes:
        networks: By source; each maps magnitudes (B, C, F, N) to magnitudes of the same shape.
    """

    networks: nn.ModuleDict

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Run the networks on magnitudes (B, C, F, N), for estimates (B, S, C, F, N)."""
        return torch.stack([self.networks[name](mixture) for name in self.sources], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of magnitudes, mean over bins, sum over sources."""
        mixture, targets = (self.whole_frames(waveform).abs() for waveform in batch)
        differences = self.magnitudes(self.to_scale(mixture)).float() - self.to_scale(targets)
        errors = differences.square().mean((0, 2, 3, 4))  # (B, S, C, F, N) -> (S,)
        return {"loss": errors.sum(), **self.source_losses(errors)}

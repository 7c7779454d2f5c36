"""One network per source."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.complex_spectrum import ComplexSpectrumSeparator
from lightning_modules.base.known_targets import distances_by_source
from lightning_modules.base.spectrogram import SpectrogramSeparator


class NetworkPerSource(SpectrogramSeparator):
    """One network per source, each of which maps the mixture's magnitudes to its source's.

    They are trained on the sum of their losses. Their gradients are independent, so that each
    network makes the same steps as if it were trained alone.

    Attributes:
        networks: Networks by source, from magnitudes (B, C, F, N) to the same shape.
    """

    networks: nn.ModuleDict

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to estimates (B, S, C, F, N)."""
        return torch.stack([self.networks[name](mixture) for name in self.sources], 1)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of magnitudes, averaged over bins and summed over sources."""
        mixture = self._magnitudes_of(batch.mixture)
        pairs = (
            (self.networks[name](mixture).float(), self._magnitudes_of(true))
            for name, true in zip(self.sources, batch.targets.unbind(1), strict=True)
        )
        errors = distances_by_source(nn.functional.mse_loss, pairs, batch.known)
        return {"loss": errors.sum(), **self.source_losses(errors)}

    def _magnitudes_of(self, waveform: Tensor) -> Tensor:
        return self.to_scale(self.whole_frames(waveform).abs())


class ComplexNetworkPerSource(ComplexSpectrumSeparator):
    """One network per source, each of which maps the mixture's complex spectrum to its source's.

    Attributes:
        networks: Networks by source, from spectra (B, 2 C, F, N) to the same shape.
    """

    networks: nn.ModuleDict

    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra (B, S, 2 C, F, N) from the mixture's (B, 2 C, F, N)."""
        return torch.stack([self.networks[name](mixture) for name in self.sources], 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss per source, and the total times the number of sources.

        By default that is their sum, so that each network has the gradient of its own loss.
        """
        losses = super().loss(batch)
        return {**losses, "loss": len(self.sources) * losses["loss"]}

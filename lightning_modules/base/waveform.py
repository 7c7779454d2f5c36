"""Base classes of models whose training loss can be chosen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.batches import Batch
from lightning_modules.base.known_targets import mean_of_known
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.losses import MSE, SourceLoss


class SeparatorWithLoss(SourceSeparator):
    """A model with an optional ``loss_function`` of waveforms.

    Args:
        sources: Names of the sources, in the order of the estimates.
        loss_function: Training loss of the estimated waveforms.
        **kwargs: Arguments of ``SourceSeparator``.
    """

    def __init__(
        self, sources: list[str], loss_function: SourceLoss | None = None, **kwargs: Any
    ) -> None:
        super().__init__(sources, **kwargs)
        self.loss_function = loss_function
        if loss_function is not None:
            for part in loss_function.modules():
                if isinstance(part, SourceLoss):
                    part.sample_rate = self.sample_rate
            # Raises now, not at the first step, if the loss names other sources than the model.
            loss_function.total({name: torch.zeros(()) for name in self.sources})

    def compared(self, estimates: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compare estimates with targets by the loss function.

        Args:
            estimates: Waveforms, shape (B, S, C, T).
            batch: Mixture and targets.

        Returns:
            ``loss`` and ``loss/<source>``, scalars.
        """
        assert self.loss_function is not None
        losses = self.loss_function(estimates, batch.targets, batch.mixture)  # (B, S)
        losses = mean_of_known(losses, batch.known)
        parts = dict(zip(self.sources, losses, strict=True))
        return {"loss": self.loss_function.total(parts), **self.source_losses(losses)}


class WaveformSeparator(SeparatorWithLoss):
    """A model trained on waveforms.

    Args:
        sources: Names of the sources, in the order of the estimates.
        loss_function: Training loss; by default the mean squared error.
        **kwargs: Arguments of ``SourceSeparator``.
    """

    def __init__(
        self, sources: list[str], loss_function: SourceLoss | None = None, **kwargs: Any
    ) -> None:
        super().__init__(sources, loss_function=loss_function or MSE(), **kwargs)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the total of the loss function and its value per source."""
        return self.compared(self(batch.mixture), batch)

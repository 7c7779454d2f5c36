"""Feed-forward networks (FNN) on single frames, one per source.

The baseline of Grais and Plumbley 2017, "Single Channel Audio Source Separation using
Convolutional Denoising Autoencoders": three hidden layers of 1025 units with ReLU, trained and
masked like their autoencoders. With the default arguments a network has the paper's 4,206,600
parameters.

The paper does not specify the output activation: a ReLU here, as in the autoencoders, because
masks need non-negative magnitudes. Departs from the paper as ``cdae.py`` does: mean squared error,
one shared learning rate schedule, non-negative initial output weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_modules.base.network_per_source import NetworkPerSource
from lightning_modules.base.spectrogram import Mask
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.initialisation import init_nonnegative_


class FNNetwork(nn.Module):
    """The network of one source, from all bins and channels of a frame to as many."""

    def __init__(self, channels: int, bins: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [channels * bins, *hidden, channels * bins]
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(widths)]
        init_nonnegative_(layers[-1])
        self.layers = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape."""
        frames = magnitudes.flatten(1, 2).transpose(1, 2)  # (B, C, F, N) -> (B, N, C F)
        estimates: Tensor = self.layers(frames)
        # (B, N, C F) -> (B, C F, N) -> (B, C, F, N)
        return estimates.transpose(1, 2).reshape(magnitudes.shape)


class FNN(NetworkPerSource):
    """Feed-forward networks on single frames, one per source.

    Mono with ``audio_channels: 1``, as in the paper; otherwise each network maps the bins of all
    channels at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        hidden: Width of each hidden layer.
        n_fft: Length of the STFT's Hann window, samples.
        hop_length: Hop of the STFT, samples; see ``cdae.py`` for the paper's value.
        mask: ``ratio`` is equation 2 of the paper.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"hidden": [8, 8], "n_fft": 512, "hop_length": 256}

    def __init__(
        self,
        sources: list[str],
        hidden: Sequence[int] = (1025, 1025, 1025),
        n_fft: int = 2048,
        hop_length: int = 1024,
        mask: Mask = "ratio",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, n_fft=n_fft, hop_length=hop_length, mask=mask, **kwargs)
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden is {list(hidden)}: use widths >= 1")
        bins = self.n_fft // 2 + 1
        self.networks = modules_by_source(
            self.sources, lambda _: FNNetwork(self.audio_channels, bins, hidden)
        )

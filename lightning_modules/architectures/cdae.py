"""Convolutional denoising autoencoders (CDAE), one per source.

Grais and Plumbley 2017, "Single Channel Audio Source Separation using Convolutional
Denoising Autoencoders". Each network treats its source as the clean signal and all other sources
as noise. It processes non-overlapping segments of 15 frames. With the default arguments a network
has the paper's 37,101 parameters and the shapes of its Table 1.

The hop is 1024 samples: the paper's text has an "overlap interval of 512" and segments of "around
370 msec", and 15 frames of 2048 samples at 44.1 kHz span 371.5 ms with a hop of 1024, but 209 ms
with a hop of 512.

Departs from the paper: the squared error is averaged over bins, where equation 1 sums it (the
optimiser is invariant to that factor); all networks share one learning rate schedule, driven by
the sum of their losses; output weights are initialised non-negative and biases to zero, because
with torch's default the output ReLU of 8 out of 12 networks was dead on real spectra. Spectrograms
whose size is not a multiple of the pooling factors are padded on the right and at the top, and the
output is cropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_modules.base.network_per_source import NetworkPerSource
from lightning_modules.base.spectrogram import Mask
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.images import to_channels_last
from lightning_modules.layers.initialisation import init_nonnegative_


class CDAENetwork(nn.Module):
    """The network of one source (Table 1 of the paper), with arguments as in ``CDAE``."""

    def __init__(
        self,
        channels: int,
        frames: int,
        filters: Sequence[int],
        kernel_size: Sequence[int],
        pools: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.frames = frames
        # Frames and bins are padded to multiples of the pooling factors.
        self.multiples = [math.prod(factors) for factors in zip(*pools, strict=True)] or [1, 1]
        kernel = (kernel_size[0], kernel_size[1])
        convolution = partial(nn.Conv2d, kernel_size=kernel, padding="same")
        layers: list[nn.Module] = []
        last = len(filters) - 1
        for number, (before, after) in enumerate(zip([channels, *filters], filters, strict=False)):
            layers += [convolution(before, after), nn.ReLU()]
            if number < len(pools):
                layers.append(nn.MaxPool2d(tuple(pools[number])))
            if last - number < len(pools):
                layers.append(nn.Upsample(scale_factor=tuple(map(float, pools[last - number]))))
        output = convolution(filters[-1], channels)
        init_nonnegative_(output)
        self.layers = nn.Sequential(*layers, output, nn.ReLU())
        to_channels_last(self)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape, any F and N."""
        batch, _, bins, number = magnitudes.shape
        # (B, C, F, N) -> (B, C, F, segments, frames) -> (B segments, C, frames, F)
        padded = nn.functional.pad(magnitudes, (0, -number % self.frames))
        segments = padded.unflatten(-1, (-1, self.frames)).permute(0, 3, 1, 4, 2).flatten(0, 1)
        below, right = -self.frames % self.multiples[0], -bins % self.multiples[1]
        segments = to_channels_last(nn.functional.pad(segments, (0, right, 0, below)))
        estimates: Tensor = self.layers(segments)[..., : self.frames, :bins]
        # (B segments, C, frames, F) -> (B, segments, C, frames, F) -> (B, C, F, segments frames)
        estimates = estimates.unflatten(0, (batch, -1)).permute(0, 2, 4, 1, 3).flatten(-2)
        return estimates[..., :number]


class CDAE(NetworkPerSource):
    """Convolutional denoising autoencoders, one per source.

    Mono with ``audio_channels: 1``, as in the paper; otherwise each network has one input and one
    output channel per audio channel.

    Args:
        sources: Names of the sources, in the order of the estimates.
        frames: Frames per segment.
        filters: Filters of each hidden convolution.
        kernel_size: Kernel size of all convolutions, frames x bins.
        pools: Max pooling factors after the first convolutions, frames x bins. The last hidden
            convolutions are followed by upsampling with the same factors in reverse order.
        n_fft: Length of the STFT's Hann window, samples.
        hop_length: Hop of the STFT, samples.
        mask: ``ratio`` is equation 2 of the paper.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        "filters": [2, 3, 4, 3, 2],
        "n_fft": 512,
        "hop_length": 256,
    }

    def __init__(
        self,
        sources: list[str],
        frames: int = 15,
        filters: Sequence[int] = (12, 20, 30, 40, 30, 20, 12),
        kernel_size: Sequence[int] = (3, 3),
        pools: Sequence[Sequence[int]] = ((3, 5), (1, 5)),
        n_fft: int = 2048,
        hop_length: int = 1024,
        mask: Mask = "ratio",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, n_fft=n_fft, hop_length=hop_length, mask=mask, **kwargs)
        sizes = [frames, *filters, *kernel_size, *(size for pool in pools for size in pool)]
        pairs = [kernel_size, *pools]
        if min(sizes) < 1 or not filters or any(len(pair) != 2 for pair in pairs):
            raise ValueError(
                f"frames is {frames}, filters {list(filters)}, kernel_size {list(kernel_size)} and "
                f"pools {[list(pool) for pool in pools]}: use numbers >= 1 and sizes of the form "
                "[frames, bins]"
            )
        if 2 * len(pools) > len(filters):
            raise ValueError(
                f"{len(pools)} pools with {len(filters)} hidden convolutions: each pooling and "
                "each upsampling needs its own convolution; use more filters or fewer pools"
            )
        shape = (self.audio_channels, frames, filters, kernel_size, pools)
        self.networks = modules_by_source(self.sources, lambda _: CDAENetwork(*shape))

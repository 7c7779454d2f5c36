"""Convolutional denoising autoencoders, one a source.

Grais and Plumbley 2017, "Single Channel Audio Source Separation using Convolutional
Denoising Autoencoders". To each network its source is the clean signal and all others are
noise. It sees 15 frames at a time, in segments that do not overlap. With the default
arguments a network has the paper's 37,101 parameters and the shapes of its Table 1.

The paper's text has an "overlap interval of 512" and segments that span "around 370 msec".
15 frames of 2048 samples do so, at 44.1 kHz, with a hop of 1024 (14 x 1024 + 2048 samples are
371.5 ms) and not with one of 512 (209 ms) or of 1536: the hop is 1024 here.

Departs from the paper: the squared error is a mean over bins where equation 1 has a sum, which
the optimiser does not feel; the networks share one schedule of the learning rate, which watches
the sum of their losses; the output layer begins with no weight below zero and no bias, because
a ReLU that begins below zero everywhere stays there (with torch's own start 8 of 12 networks
did, on real spectra). Spectrograms whose size the poolings do not divide are padded on the
right and above, and cropped there again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_modules.base.network_per_source import NetworkPerSource
from lightning_modules.base.spectrogram import Mask
from lightning_modules.layers.images import to_channels_last
from lightning_modules.layers.initialisation import init_nonnegative_


class CDAENetwork(nn.Module):
    """The network of one source (Table 1 of the paper).

    Args:
        channels: Channels of the spectrograms.
        frames: Frames of a segment.
        filters: Filters of each hidden convolution.
        kernel_size: Size of all filters, frames x bins.
        pools: Max pooling after each of the first convolutions, frames x bins; after the
            last hidden ones the same factors, in reverse, bring the size back.
    """

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
        # What the poolings must be able to divide.
        self.multiples = [math.prod(factors) for factors in zip(*pools, strict=True)] or [1, 1]
        layers: list[nn.Module] = []
        last = len(filters) - 1
        for number, (before, after) in enumerate(zip([channels, *filters], filters, strict=False)):
            layers += [_convolution(before, after, kernel_size), nn.ReLU()]
            if number < len(pools):
                layers.append(nn.MaxPool2d(tuple(pools[number])))
            if last - number < len(pools):
                layers.append(nn.Upsample(scale_factor=tuple(map(float, pools[last - number]))))
        output = _convolution(filters[-1], channels, kernel_size)
        init_nonnegative_(output)
        self.layers = nn.Sequential(*layers, output, nn.ReLU())
        to_channels_last(self)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to magnitudes of the same shape, any F and N."""
        batch, _, bins, number = magnitudes.shape
        # Whole segments: (B, C, F, N) -> (B, C, F, segments, frames) -> (B segments, C, frames, F)
        padded = nn.functional.pad(magnitudes, (0, -number % self.frames))
        segments = padded.unflatten(-1, (-1, self.frames)).permute(0, 3, 1, 4, 2).flatten(0, 1)
        missing = [-self.frames % self.multiples[0], -bins % self.multiples[1]]
        segments = nn.functional.pad(segments, (0, missing[1], 0, missing[0]))
        segments = to_channels_last(segments)
        estimates: Tensor = self.layers(segments)[..., : self.frames, :bins]
        # (B segments, C, frames, F) -> (B, segments, C, frames, F) -> (B, C, F, segments frames)
        estimates = estimates.unflatten(0, (batch, -1)).permute(0, 2, 4, 1, 3).flatten(-2)
        return estimates[..., :number]


def _convolution(inputs: int, outputs: int, kernel_size: Sequence[int]) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, (kernel_size[0], kernel_size[1]), padding="same")


class CDAE(NetworkPerSource):
    """Convolutional denoising autoencoders, one a source.

    Mono, as in the paper, where the data are (``audio_channels: 1``); with more channels the
    networks read and write all of them at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        frames: Frames of a segment.
        filters: Filters of each hidden convolution.
        kernel_size: Size of all filters, frames x bins.
        pools: Max pooling after each of the first convolutions, frames x bins. The size comes
            back after the last hidden convolutions, in reverse.
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
                f"pools {[list(pool) for pool in pools]}: give numbers from 1 on, and sizes as "
                "[frames, bins]"
            )
        if 2 * len(pools) > len(filters):
            raise ValueError(
                f"{len(pools)} pools with {len(filters)} hidden convolutions: a pooling and its "
                "up-sampling follow one each; give twice as many filters, or fewer pools"
            )
        self.networks = nn.ModuleDict(
            {
                name: CDAENetwork(self.audio_channels, frames, filters, kernel_size, pools)
                for name in self.sources
            }
        )

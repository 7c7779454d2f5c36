"""Mask U-Net: a convolutional network a source that writes a mask for the mixture.

Jansson, Humphrey, Montecchio, Bittner, Kumar and Weyde 2017, "Singing voice separation with deep
U-Net convolutional networks", the ancestor of the U-Net in ``unet.py``: it halves its image by
strided convolutions, not by pooling, and writes masks, not magnitudes. It works at 8192 Hz with
windows of 1024 samples that move by 768, on images of 512 bins and 128 frames.

Nothing is resampled here: at another rate windows of the same length in seconds have the same
bins and the same frames, with some more bins above, which are not read. As in the paper no source
has anything there, above 4096 Hz. At 44,100 Hz the windows are 5512 samples and the hop 4134: bins
lie 0.01% off. Of the 513 bins that end at 4096 Hz the paper keeps 512; here the last one is
dropped.

Magnitudes are "normalized to the range [0, 1]", the paper does not say over what; here by the
largest in the mixture's excerpt, so that loudness does not matter. The loss is a mean where the
paper has a sum, to which Adam is blind. Departs from the paper: stereo has a channel for each side,
where the paper is mono; any number of sources, where it has vocals and accompaniment.

With the default channels the network of a source has 9,823,313 parameters in mono (our count).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.images import to_channels_last, up_to_multiple

_KERNEL, _LEAKINESS = 5, 0.2
# The first layers of the decoder have dropout.
_DROPOUT_LAYERS = 3


class MaskUNetwork(nn.Module):
    """The network of one source: magnitudes in, a mask out.

    Args:
        audio_channels: Channels of the image, and of the mask.
        channels: Filters of each encoder layer, outermost first.
        dropout: Rate of dropout in the first three layers of the decoder.
    """

    def __init__(self, audio_channels: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, _KERNEL, stride=2, padding=_KERNEL // 2),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(_LEAKINESS),
            )
            for before, after in itertools.pairwise([audio_channels, *channels])
        )
        # But for the innermost, layers read their encoder's output beside that of the last layer.
        inputs = [channels[-1], *(2 * width for width in reversed(channels[:-1]))]
        outputs = [*reversed(channels[:-1]), audio_channels]
        up = [
            nn.ConvTranspose2d(
                before, after, _KERNEL, stride=2, padding=_KERNEL // 2, output_padding=1
            )
            for before, after in zip(inputs, outputs, strict=True)
        ]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                layer,
                nn.BatchNorm2d(layer.out_channels),
                nn.ReLU(),
                nn.Dropout(dropout if number < _DROPOUT_LAYERS else 0.0),
            )
            for number, layer in enumerate(up[:-1])
        )
        self.output = nn.Sequential(up[-1], nn.Sigmoid())
        # Each layer halves both axes, so they must be multiples of this.
        self.multiple = 2 ** len(channels)
        to_channels_last(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map magnitudes (B, C, F, N) to a mask in [0, 1] of the same shape, any F and N."""
        height, width = image.shape[-2:]
        x: Tensor = up_to_multiple(image, self.multiple)
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for layer in self.decoder:
            x = torch.cat([layer(x), skips.pop()], 1)
        x = self.output(x)
        return x[..., :height, :width]


class MaskUNet(SpectrogramSeparator):
    """Mask U-Nets for all sources: a network each, trained together.

    Args:
        sources: Names of the sources, in the order of the estimates.
        sample_rate: Sample rate of mixture and estimates, Hz; ``mask_rate`` or higher.
        channels: Filters of each encoder layer, outermost first.
        dropout: Rate of dropout in the first three layers of the decoders, in [0, 1).
        mask_rate: Sample rate at which masks are estimated, Hz.
        n_fft: Length of the STFT's Hann window, samples at ``mask_rate``.
        hop_length: Hop of the STFT, samples at ``mask_rate``.
        mask: ``none`` applies each network's mask as it is, as in the paper; ``ratio`` and
            ``binary`` share the mixture out by them.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    changeable_hparams = SpectrogramSeparator.changeable_hparams | {"dropout"}
    fixed_arguments = frozenset({"magnitude_scale"})
    tiny: ClassVar[Mapping[str, Any]] = {"channels": [4, 8], "n_fft": 256, "hop_length": 192}

    def __init__(
        self,
        sources: list[str],
        sample_rate: int = 44100,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        dropout: float = 0.5,
        mask_rate: int = 8192,
        n_fft: int = 1024,
        hop_length: int = 768,
        **kwargs: Any,
    ) -> None:
        if not 1 <= mask_rate <= sample_rate:
            raise ValueError(
                f"mask_rate is {mask_rate} with a sample_rate of {sample_rate}: give 1 to "
                f"{sample_rate} Hz"
            )
        # An even number of samples, and a hop that is the same share of it.
        window = 2 * round(n_fft / 2 * sample_rate / mask_rate)
        super().__init__(
            sources,
            sample_rate=sample_rate,
            n_fft=window,
            hop_length=window * hop_length // n_fft,
            magnitude_scale="linear",
            **kwargs,
        )
        if not channels or min(channels) < 1:
            raise ValueError(f"channels are {list(channels)}: give one number from 1 on, or more")
        self.bins = n_fft // 2
        self.networks = nn.ModuleDict(
            {name: MaskUNetwork(self.audio_channels, channels, dropout) for name in self.sources}
        )

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Mask magnitudes (B, C, F, N), for estimates (B, S, C, F, N); zero above ``bins``."""
        estimates = self.masked(mixture) * mixture[:, None, :, : self.bins]
        above = mixture.shape[2] - self.bins
        return nn.functional.pad(estimates, (0, 0, 0, above))

    def masked(self, mixture: Tensor) -> Tensor:
        """Masks of magnitudes (B, C, F, N): (B, S, C, bins, N)."""
        read = mixture[:, :, : self.bins].nan_to_num(0.0, 0.0, 0.0) / self.loudest(mixture)
        return torch.stack([self.networks[name](read) for name in self.sources], 1).float()

    def loudest(self, mixture: Tensor) -> Tensor:
        """Largest finite magnitude that is read of (B, C, F, N), as (B, 1, 1, 1); above 0."""
        read = mixture[:, :, : self.bins].nan_to_num(0.0, 0.0, 0.0)
        return read.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(read.dtype).tiny)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """L1 distance of masked and true magnitudes, mean over bins, sum over sources.

        A sum, because each network then gets the gradients that it would get alone.
        """
        mixture, targets = (self.stft(waveforms).abs() for waveforms in batch)
        estimates = self.magnitudes(mixture)[..., : self.bins, :]
        differences = (estimates - targets[..., : self.bins, :]) / self.loudest(mixture)[:, None]
        distances = differences.abs().mean((0, 2, 3, 4))  # (B, S, C, F, N) -> (S,)
        return {"loss": distances.sum(), **self.source_losses(distances)}

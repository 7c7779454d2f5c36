"""Mask U-Net: one U-Net per source that estimates a mask for the mixture's magnitudes.

Jansson, Humphrey, Montecchio, Bittner, Kumar and Weyde 2017, "Singing voice separation with deep
U-Net convolutional networks", the predecessor of the U-Net in ``unet.py``: it downsamples with
strided convolutions instead of pooling, and estimates masks instead of magnitudes. The paper works
at 8192 Hz with a window of 1024 and a hop of 768 samples, on images of 512 bins x 128 frames.

Departs from the paper: nothing is resampled. At another sample rate a window of the same duration
gives the same bins and frames plus bins above 4096 Hz, which are not read and are zero in all
estimates. At 44,100 Hz the window is 5512 and the hop 4134 samples, and bin frequencies are 0.01%
off. The paper keeps 512 of the 513 bins up to 4096 Hz; here the last one is dropped. Magnitudes
are "normalized to the range [0, 1]" without saying how; here by the maximum of each excerpt of the
mixture, so that the masks do not depend on its level. The loss is a mean where the paper has a
sum, to which Adam is invariant. Stereo has two channels, where the paper is mono, and any number
of sources is possible, where it has vocals and accompaniment.

With the default channels a network has 9,823,313 parameters in mono (our count).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.known_targets import distances_by_source
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.images import to_channels_last, up_to_multiple

_KERNEL, _LEAKINESS = 5, 0.2
# Number of decoder layers with dropout, innermost first.
_DROPOUT_LAYERS = 3


class MaskUNetwork(nn.Module):
    """The network of one source: maps magnitudes to a mask; arguments as in ``MaskUNet``."""

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
        # All but the innermost layer have a skip connection, concatenated to their input.
        inputs = [channels[-1], *(2 * width for width in reversed(channels[:-1]))]
        outputs = [*reversed(channels[:-1]), audio_channels]
        up = [
            nn.ConvTranspose2d(before, after, _KERNEL, 2, _KERNEL // 2, output_padding=1)
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
        # Downsampling factor of the encoder; images are padded to multiples of it.
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
    """Mask U-Nets, one per source, trained jointly.

    Args:
        sources: Names of the sources, in the order of the estimates.
        sample_rate: Sample rate of mixture and estimates, Hz; ``mask_rate`` or higher.
        channels: Filters of each encoder layer, outermost first.
        dropout: Dropout probability in the first three decoder layers, in [0, 1).
        mask_rate: Sample rate at which masks are estimated, Hz.
        n_fft: Length of the STFT's Hann window, samples at ``mask_rate``.
        hop_length: Hop of the STFT, samples at ``mask_rate``.
        mask: ``none`` applies each network's mask directly, as in the paper; ``ratio`` and
            ``binary`` mask the mixture by the masked magnitudes.
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
                f"mask_rate is {mask_rate} with a sample_rate of {sample_rate}: use 1 to "
                f"{sample_rate} Hz"
            )
        # An even window length, and a hop of the same fraction of it.
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
            raise ValueError(f"channels is {list(channels)}: use one or more numbers >= 1")
        self.bins = n_fft // 2
        self.networks = modules_by_source(
            self.sources, lambda _: MaskUNetwork(self.audio_channels, channels, dropout)
        )

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate magnitudes (B, S, C, F, N) from the mixture's (B, C, F, N); 0 above ``bins``."""
        estimates = self.estimate_masks(mixture) * mixture[:, None, :, : self.bins]
        return nn.functional.pad(estimates, (0, 0, 0, mixture.shape[2] - self.bins))

    def estimate_masks(self, mixture: Tensor) -> Tensor:
        """Estimate masks (B, S, C, bins, N) from magnitudes (B, C, F, N)."""
        inputs = mixture[:, :, : self.bins].nan_to_num(0.0, 0.0, 0.0) / self.peak(mixture)
        return torch.stack([self.networks[name](inputs) for name in self.sources], 1).float()

    def peak(self, mixture: Tensor) -> Tensor:
        """Largest finite magnitude up to ``bins`` of (B, C, F, N), positive, (B, 1, 1, 1)."""
        inputs = mixture[:, :, : self.bins].nan_to_num(0.0, 0.0, 0.0)
        return inputs.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(inputs.dtype).tiny)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """L1 distance between masked and true magnitudes, mean over bins, sum over sources.

        With a sum each network gets the same gradients as if it were trained alone.
        """
        mixture = self.stft(batch.mixture).abs()
        low, peak = mixture[:, :, : self.bins], self.peak(mixture)
        inputs = low.nan_to_num(0.0, 0.0, 0.0) / peak
        pairs = (
            (
                self.networks[name](inputs).float() * low / peak,
                self.stft(target).abs()[:, :, : self.bins] / peak,
            )
            for name, target in zip(self.sources, batch.targets.unbind(1), strict=True)
        )
        distances = distances_by_source(nn.functional.l1_loss, pairs, batch.known)
        return {"loss": distances.sum(), **self.source_losses(distances)}

"""Denoising autoencoder: estimates clean music from noisy, reverberant music.

Li, "Deep denoising autoencoder for music source separation": convolution, ReLU and batch norm, max
pooling by 2, upsampling by 2 and a final convolution, on STFT magnitudes (window 1024, hop 512).
Convolutions are not zero-padded, because the paper reports an audible buzz: the output is smaller
than the input, and the target is cropped to its centre.

The paper leaves two points open. How a song gets its edges back: here the spectrogram is reflected
at its edges before separation, which along frequency is exact, as the spectrum of a real signal is
symmetric about 0 Hz and the Nyquist frequency. And whether a convolution block or a convolution
layer follows the upsampling: here a layer, as the batch norm of a block would not give magnitudes.
Its output is trained without activation and clamped to zero in separation. Audio channels are
processed independently.

The paper prints no number of parameters. Its final network, one channel and 1x1 kernels, has 11
with transposed convolution and 6 with bilinear interpolation (our counts). A convolution with a
single weight is initialised positive: with a negative one its ReLU is dead for all magnitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.known_targets import mean_of_known
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.images import to_channels_last

Upsampling = Literal["transposed", "bilinear"]


class ConvBlock(nn.Sequential):
    """Unpadded convolution, ReLU, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(
            _convolution(inputs, outputs, kernel_size), nn.ReLU(), nn.BatchNorm2d(outputs)
        )


class Autoencoder(nn.Module):
    """Maps a one-channel image to the centre of ``outputs`` images."""

    def __init__(
        self, outputs: int, channels: Sequence[int], kernel_size: int, upsampling: Upsampling
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(ConvBlock(before, after, kernel_size), nn.MaxPool2d(2))
                for before, after in itertools.pairwise([1, *channels])
            )
        )
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(_upsample(before, upsampling), ConvBlock(before, after, kernel_size))
                for before, after in itertools.pairwise(reversed(channels))
            ),
            _upsample(channels[0], upsampling),
            _convolution(channels[0], outputs, kernel_size),
        )
        self.multiple: int = 2 ** len(channels)  # downsampling factor of the encoder
        # Bins and frames lost at each edge: kernel_size // 2 per convolution, at scales 1, 2, 4,
        # ..., in the encoder and again in the decoder.
        self.margin: int = (kernel_size - 1) * (self.multiple - 1)
        to_channels_last(self)

    def valid_size(self, size: int) -> int:
        """Find the largest valid number of bins or frames <= ``size``, or raise a ValueError."""
        valid = size - (size - self.margin) % self.multiple
        if valid <= 2 * self.margin:
            least = 2 * self.margin + 1
            least += (self.margin - least) % self.multiple
            raise ValueError(
                f"a spectrogram has {size} bins or frames on one axis, the network needs at least "
                f"{least}: lengthen the segment (segment_seconds, segment_curriculum), or lower "
                "kernel_size or the number of blocks (channels)"
            )
        return valid

    def forward_reflected(self, image: Tensor) -> Tensor:
        """Map (B, 1, F, N) to (B, outputs, F, N) by reflecting the image at its edges."""
        height, width = image.shape[-2:]
        rows, columns = (self._reflected(size, image.device) for size in (height, width))
        images: Tensor = self(image[..., rows, :][..., columns])
        return images[..., :height, :width]

    def _reflected(self, size: int, device: torch.device) -> Tensor:
        """Indices that reflect-pad an axis by the margin, then to a valid input size."""
        end = size + self.margin + -(size + self.margin) % self.multiple
        places = torch.arange(-self.margin, end, device=device)
        # Period of the reflection; a tensor, because ONNX cannot divide by a symbolic size.
        period = torch.full((), max(1, 2 * (size - 1)), device=device)
        places = places % period
        return torch.minimum(places, period - places) if size > 1 else places * 0

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 1, F, N) of valid size to the centre of (B, outputs, F, N)."""
        images: Tensor = self.decoder(self.encoder(to_channels_last(image)))
        return images


def _convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel_size)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.weight.numel() == 1:
        convolution.weight.data.abs_()
    return convolution


def _upsample(channels: int, upsampling: Upsampling) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(channels, channels, 2, stride=2)
    return nn.Upsample(scale_factor=2, mode="bilinear")


class DenoisingAutoencoder(SpectrogramSeparator):
    """Denoising autoencoder, or separator if it has several sources.

    To denoise, use one source with all stems, ``{music: [vocals, drums, bass, other]}``. Each
    source has its own output channel.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Filters of each encoder block, outermost first.
        kernel_size: Kernel size of the convolutions, bins and frames, odd.
        upsampling: ``transposed`` convolution or ``bilinear`` interpolation.
        n_fft: Length of the STFT's Hann window, samples.
        hop_length: Hop of the STFT, samples.
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"channels": [2, 3]}

    def __init__(
        self,
        sources: list[str],
        channels: Sequence[int] = (1,),
        kernel_size: int = 1,
        upsampling: Upsampling = "transposed",
        n_fft: int = 1024,
        hop_length: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, n_fft=n_fft, hop_length=hop_length, **kwargs)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels is {list(channels)}: use one or more numbers >= 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: use an odd number >= 1")
        if upsampling not in get_args(Upsampling):
            raise ValueError(f"upsampling is {upsampling!r}: use transposed or bilinear")
        self.network = Autoencoder(len(self.sources), channels, kernel_size, upsampling)
        crop = round(self.hparams["segment_seconds"] * self.sample_rate)
        for size in (n_fft // 2 + 1, crop // hop_length + 1):
            self.network.valid_size(size)

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate magnitudes (B, S, C, F, N) from the mixture's (B, C, F, N)."""
        images = self.network.forward_reflected(mixture.flatten(0, 1)[:, None])  # (B C, S, F, N)
        estimates: Tensor = images.unflatten(0, mixture.shape[:2]).transpose(1, 2)
        return estimates.clamp_min(0)

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error between the network's output and the centre of the target."""
        mixture, targets = (self.to_scale(self.stft(signals).abs()) for signals in batch)
        mixture = mixture.flatten(0, 1)  # (B C, F, N)
        targets = targets.transpose(1, 2).flatten(0, 1)  # (B, S, C, F, N) -> (B C, S, F, N)
        height, width = (self.network.valid_size(size) for size in mixture.shape[-2:])
        estimates = self.network(mixture[:, None, :height, :width]).float()
        margin = self.network.margin
        centre = targets[..., margin : height - margin, margin : width - margin]
        distances = (estimates - centre).square().mean((2, 3))  # (B C, S)
        distances = distances.unflatten(0, (len(batch.mixture), -1)).mean(1)
        distances = mean_of_known(distances, batch.known)
        return {"loss": distances.mean(), **self.source_losses(distances)}

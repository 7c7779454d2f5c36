"""Spectrogram-channels U-Net.

Oh, Kim and Yun 2018, "Spectrogram-channels u-net: a source separation model viewing each channel as
the spectrogram of each source", with details from Pourtorkan 2022 ("Audio source separation using
deep learning", sections 2.2 and 4.1). One network estimates all magnitude spectrograms, one output
channel per source and audio channel.

Departs from the papers: spectrograms are padded at the high frequencies and on the right only, and
the output is cropped, so that estimates stay aligned with the mixture (Pourtorkan's were shifted by
a frame, his chapter 6); stereo has two channels, where the papers are mono; the dropout rate, which
the report does not print, is an argument.

With the default channels the network has 7,766,468 parameters for mono and four sources (our
count), and with 5x5 upsampling and no biases in the encoder, as in Pourtorkan's program, 11,420,098
for mono and two sources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from datamodules.errors import DataError, counted
from datamodules.musdb import MUSDBDataModule
from lightning_modules.base.known_targets import mean_of_known
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.images import to_channels_last, up_to_multiple
from lightning_modules.losses import L1, alpha_weights


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each with ReLU and batch norm, in this order."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
        )


class UpBlock(nn.Module):
    """Upsample by 2 with dropout, concatenate the skip connection, apply a ``ConvBlock``."""

    def __init__(self, inputs: int, outputs: int, dropout: float, kernel_size: int) -> None:
        super().__init__()
        odd = kernel_size % 2
        padding = (kernel_size - 2 + odd) // 2  # doubles the size exactly
        self.up = nn.Sequential(
            nn.ConvTranspose2d(
                inputs, outputs, kernel_size, stride=2, padding=padding, output_padding=odd
            ),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
            nn.Dropout(dropout),
        )
        self.convolutions = ConvBlock(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, inputs, H, W) and a skip (B, outputs, 2H, 2W) to (B, outputs, 2H, 2W)."""
        joined: Tensor = self.convolutions(torch.cat([self.up(x), skip], 1))
        return joined


class UNetwork(nn.Module):
    """Maps a spectrogram image to one image per source and audio channel.

    The centre block, which counts as the encoder's, has twice as many filters as its last block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: Sequence[int],
        dropout: float,
        upsampling_kernel_size: int = 2,
        encoder_bias: bool = True,
    ) -> None:
        super().__init__()
        if upsampling_kernel_size < 2:
            raise ValueError(f"upsampling_kernel_size is {upsampling_kernel_size}: use 2 or more")
        if min(channels, default=0) < 1:
            raise ValueError(f"channels is {list(channels)}: use one or more numbers >= 1")
        self.encoder = nn.ModuleList(
            ConvBlock(before, after, encoder_bias)
            for before, after in itertools.pairwise([inputs, *channels])
        )
        self.pool = nn.MaxPool2d(2)
        self.centre = ConvBlock(channels[-1], 2 * channels[-1], encoder_bias)
        widths = [2 * channels[-1], *reversed(channels)]
        self.decoder = nn.ModuleList(
            UpBlock(before, after, dropout, upsampling_kernel_size)
            for before, after in itertools.pairwise(widths)
        )
        self.output = nn.Sequential(nn.Conv2d(channels[0], outputs, 1), nn.ReLU())
        # Downsampling factor of the poolings; images are padded to multiples of it.
        self.multiple = 2 ** len(channels)
        to_channels_last(self)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, inputs, F, N) to (B, outputs, F, N), any F and N."""
        height, width = image.shape[-2:]
        x: Tensor = up_to_multiple(image, self.multiple)
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.centre(x)
        for block in self.decoder:
            x = block(x, skips.pop())
        x = self.output(x)
        return x[..., :height, :width]


class UNet(SpectrogramSeparator):
    """Spectrogram-channels U-Net: one magnitude spectrogram per source.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Filters of each encoder block, outermost first.
        dropout: Dropout probability in the decoder, in [0, 1).
        upsampling_kernel_size: Size of the kernels that double the size of the images; 5 in
            Pourtorkan's program.
        encoder_bias: Whether the encoder's convolutions have biases; not in Pourtorkan's program,
            since batch norm follows.
        alphas: Weight of each source in the loss, by name; they add up to one. ``equal`` weights
            all sources equally. ``balanced`` measures the training data and makes weight times
            mean 2-norm the same for all sources (alpha ||vocals|| = (1 - alpha) ||accompaniment||).
        **kwargs: Arguments of ``SpectrogramSeparator``.
    """

    changeable_hparams = SpectrogramSeparator.changeable_hparams | {"dropout"}
    loss_buffers = frozenset({"source_weights"})
    tiny: ClassVar[Mapping[str, Any]] = {"channels": [4, 8], "n_fft": 512, "hop_length": 256}

    def __init__(
        self,
        sources: list[str],
        channels: Sequence[int] = (32, 64, 128, 256),
        dropout: float = 0.4,
        upsampling_kernel_size: int = 2,
        encoder_bias: bool = True,
        alphas: dict[str, float] | Literal["equal", "balanced"] = "equal",
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        outputs = len(self.sources) * self.audio_channels
        self.network = UNetwork(
            self.audio_channels, outputs, channels, dropout, upsampling_kernel_size, encoder_bias
        )
        self.distance = L1()
        self.alphas = alphas
        # Saved in the checkpoint, because balanced weights are measured only once.
        self.register_buffer("source_weights", self._weights(alphas))
        self.source_weights: Tensor

    def _weights(self, alphas: dict[str, float] | str) -> Tensor:
        if isinstance(alphas, str):
            if alphas not in ("equal", "balanced"):
                raise ValueError(f"alphas is {alphas!r}: use weights by name, equal or balanced")
            # Balanced weights are NaN until they are measured.
            value = 1 / len(self.sources) if alphas == "equal" else math.nan
            return torch.full((len(self.sources),), value)
        return alpha_weights(alphas, self.sources)

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Estimate magnitudes (B, S, C, F, N) from the mixture's (B, C, F, N)."""
        images = self.network(mixture)  # (B, S C, F, N)
        estimates: Tensor = images.unflatten(1, (len(self.sources), self.audio_channels))
        return estimates

    def paper_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted L1 distance of magnitudes (Pourtorkan 2022, equations 12 and 13)."""
        mixture, targets = (self.to_scale(self.stft(signals).abs()) for signals in batch)
        distances = self.distance(self.magnitudes(mixture), targets, mixture)  # (B, S)
        distances = mean_of_known(distances, batch.known)
        return {"loss": (self.source_weights * distances).sum(), **self.source_losses(distances)}

    def on_fit_start(self) -> None:
        """Measure balanced weights once, before the first step."""
        if self.alphas == "balanced" and self.source_weights.isnan().any():
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.source_weights.copy_(balanced_weights(self, data))
            weights = dict(zip(self.sources, self.source_weights.tolist(), strict=True))
            self.print("balanced alphas: " + ", ".join(f"{k} {v:.3f}" for k, v in weights.items()))


def balanced_weights(model: UNet, data: MUSDBDataModule, crops: int = 256) -> Tensor:
    """Measure loss weights (S,), inverse to the mean 2-norm of each source's magnitudes.

    They add up to one. Crops are read from the training tracks at fixed positions, without
    augmentation. Raises a DataError if a source is silent in all of them.
    """
    norms = torch.zeros(len(model.sources))
    for number in range(crops):
        track = data.train_tracks[number % len(data.train_tracks)]
        last = max(0, track.samples - data.segment_samples)
        # Multiples of the golden ratio are evenly spread for any number of crops.
        start = int(number * 0.6180339887 % 1 * last)
        _, targets = data.grouping.read(track, start, data.segment_samples)
        magnitudes = model.to_scale(model.stft(targets.to(model.device)).abs())
        norms += magnitudes.flatten(1).norm(dim=1).cpu()  # (S, C, F, N) -> (S,)
    for name, norm in zip(model.sources, norms.tolist(), strict=True):
        if norm == 0:
            raise DataError(
                f"alphas cannot be balanced: {name} is silent in {counted(crops, 'crop')} of "
                "the training tracks; set the alphas by name"
            )
    return (1 / norms) / (1 / norms).sum()

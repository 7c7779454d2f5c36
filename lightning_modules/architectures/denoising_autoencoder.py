"""Denoising autoencoder: noisy, reverberant music in, clean music out.

Li, "Deep denoising autoencoder for music source separation": convolution, ReLU and batch norm,
max pooling to half the size, up-sampling to the whole, and a convolution, on magnitudes of an STFT
of 1024 samples at a hop of 512. Nothing is padded with zeros, which the paper hears as a buzz:
the network gives back less than it was given, and the target is cropped to its centre.

The paper does not say how a song gets back its edges. Here the spectrogram is reflected at them
before it is separated: along frequency that is no guess, as the spectrum of a real signal is
symmetric about 0 Hz and about half the sample rate. It calls what follows the up-sampling both a
convolution block and a convolution layer. The layer is taken: a block would end in ReLU and batch
norm, from which neither zero nor a magnitude comes. Its output is trained as it is, and negative
values count as silence in separation. Channels go through the network one by one.

The paper prints no number of parameters. Its final network, one channel and kernels of size one,
has 11 with transposed convolution and 6 with bilinear interpolation (our counts). A convolution of
one weight begins with a positive one: behind a negative one ReLU lets nothing of a magnitude pass,
and it would never learn.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.spectrogram import SpectrogramSeparator
from lightning_modules.layers.images import to_channels_last

Upsampling = Literal["transposed", "bilinear"]


class ConvBlock(nn.Sequential):
    """Convolution without padding, ReLU, batch norm.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel_size: Bins and frames of a kernel.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(
            _convolution(inputs, outputs, kernel_size), nn.ReLU(), nn.BatchNorm2d(outputs)
        )


class Autoencoder(nn.Module):
    """The network: an image in, images of its centre out.

    Args:
        outputs: Images that go out.
        channels: Filters of each block of the encoder, outermost first; the size is halved
            behind each.
        kernel_size: Bins and frames of a kernel, an odd number.
        upsampling: ``transposed`` convolution or ``bilinear`` interpolation.
    """

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
        falling = list(reversed(channels))
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(_double(before, upsampling), ConvBlock(before, after, kernel_size))
                for before, after in itertools.pairwise(falling)
            ),
            _double(channels[0], upsampling),
            _convolution(channels[0], outputs, kernel_size),
        )
        self.multiple: int = 2 ** len(channels)
        # Kernels take half of themselves from each edge, at the whole of the size, the half and so
        # on; once on the way down and once on the way up.
        self.margin: int = (kernel_size - 1) * (self.multiple - 1)
        to_channels_last(self)

    def fitting(self, size: int) -> int:
        """Find the largest number of bins or frames, up to a size, that halves without a rest.

        Args:
            size: Bins or frames that there are.

        Returns:
            Bins or frames to give to the network; it returns ``2 * margin`` less.

        Raises:
            ValueError: They are too few for the network.
        """
        fitting = size - (size - self.margin) % self.multiple
        if fitting <= 2 * self.margin:
            least = 2 * self.margin + 1
            least += (self.margin - least) % self.multiple
            raise ValueError(
                f"a spectrogram has {size} bins or frames on one axis, the network needs at least "
                f"{least}: lengthen the segment (segment_seconds, segment_curriculum), or lower "
                "kernel_size or the number of channels"
            )
        return fitting

    def whole(self, image: Tensor) -> Tensor:
        """Map (B, 1, F, N) to (B, outputs, F, N), the image being reflected at its edges."""
        height, width = image.shape[-2:]
        rows, columns = (self._reflected(size, image.device) for size in (height, width))
        images: Tensor = self(image[..., rows, :][..., columns])
        return images[..., :height, :width]

    def _reflected(self, size: int, device: torch.device) -> Tensor:
        """Indices that put the margin, and what the network wants beyond, around an axis."""
        places = torch.arange(
            -self.margin, size + self.margin + -(size + self.margin) % self.multiple, device=device
        )
        # There and back, each edge once; a tensor, as ONNX has no remainder by a size.
        period = torch.full((), max(1, 2 * (size - 1)), device=device)
        places = places % period
        return torch.minimum(places, period - places) if size > 1 else places * 0

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 1, F, N) to the centre of (B, outputs, F, N)."""
        image = to_channels_last(image)
        images: Tensor = self.decoder(self.encoder(image))
        return images


def _convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel_size)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.weight.numel() == 1:
        convolution.weight.data.abs_()
    return convolution


def _double(channels: int, upsampling: Upsampling) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(channels, channels, 2, stride=2)
    return nn.Upsample(scale_factor=2, mode="bilinear")


class DenoisingAutoencoder(SpectrogramSeparator):
    """Denoising autoencoder.

    Its sources are one that holds all stems, ``{music: [vocals, drums, bass, other]}``, if it is
    to denoise; with others it separates, with an output channel for each.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Filters of each block of the encoder, outermost first.
        kernel_size: Bins and frames of a kernel, an odd number.
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
            raise ValueError(f"channels is {list(channels)}: give one number from 1 on, or more")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: give an odd number from 1 on")
        if upsampling not in get_args(Upsampling):
            raise ValueError(f"upsampling is {upsampling!r}: give transposed or bilinear")
        self.network = Autoencoder(len(self.sources), channels, kernel_size, upsampling)
        crop = round(self.hparams["segment_seconds"] * self.sample_rate)
        for size in (n_fft // 2 + 1, crop // hop_length + 1):
            self.network.fitting(size)

    def magnitudes(self, mixture: Tensor) -> Tensor:
        """Run the network on magnitudes (B, C, F, N), for estimates (B, S, C, F, N)."""
        images = self.network.whole(mixture.flatten(0, 1)[:, None])  # (B C, S, F, N)
        estimates: Tensor = images.unflatten(0, mixture.shape[:2]).transpose(1, 2)
        return estimates.clamp_min(0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the network's output from the centre of the target."""
        mixture = self.to_scale(self.stft(batch.mixture).abs()).flatten(0, 1)  # (B C, F, N)
        targets = self.to_scale(self.stft(batch.targets).abs())
        targets = targets.transpose(1, 2).flatten(0, 1)  # (B, S, C, F, N) -> (B C, S, F, N)
        height, width = (self.network.fitting(size) for size in mixture.shape[-2:])
        estimates = self.network(mixture[:, None, :height, :width]).float()
        margin = self.network.margin
        centre = targets[..., margin : height - margin, margin : width - margin]
        distances = (estimates - centre).square().mean((0, 2, 3))
        return {"loss": distances.mean(), **self.source_losses(distances)}

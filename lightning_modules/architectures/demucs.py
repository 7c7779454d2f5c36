"""Demucs: from waveform to waveforms by strided convolutions, an LSTM and skips.

Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the Waveform Domain",
arXiv:1911.13254, with what the authors' package ``demucs`` does and the paper does not print,
and its revision of 2020, which works at twice the sample rate with fewer channels. Weights of
the package can be read (``demucs_package``). And two variants of Goel, Huang, Owoputi and
Poudyal, their Table 13 and section 5: a light one with one unidirectional LSTM, which needs no
dense layer behind it, and one with a decoder for each source. Theirs has "reduced depth",
without a number; as a skip joins equal levels, encoder and decoders here have the same depth.

Departs from the papers: the input is brought to mean 0 and deviation 1 in each crop, as the
package's later networks do, where the first ones did it to whole tracks, which neither a crop
nor a stream lets one know. With four sources in stereo there are 648,548,208 parameters with
100 channels and 265,679,496 with 64 (our counts).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.layers.cropping import centre

KERNEL_SIZE, STRIDE = 8, 4
# Kernel of the decoder's other convolution, which sees a step before and one after.
_CONTEXT = 3
# Deviation that the weights of a convolution begin near.
_REFERENCE = 0.1
# Added to the deviation of the input, which is divided by.
_EPS = 1e-5


class Encoder(nn.ModuleList):
    """Levels of a strided convolution, ReLU, a 1x1 convolution and GLU.

    Args:
        channels: Channels of the input and of each level, outermost first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv1d(before, after, KERNEL_SIZE, STRIDE),
                nn.ReLU(),
                nn.Conv1d(after, 2 * after, 1),
                nn.GLU(1),
            )
            for before, after in itertools.pairwise(channels)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, C, T) to the output of each level, outermost first."""
        outputs = []
        for level in self:
            x = level(x)
            outputs.append(x)
        return outputs


class BLSTM(nn.Module):
    """An LSTM over time, as wide as its input.

    Args:
        channels: Channels that come in, and go out.
        layers: Layers of the LSTM.
        bidirectional: Have it run both ways; a dense layer then halves its output.
    """

    def __init__(self, channels: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional)
        self.linear = nn.Linear(2 * channels, channels) if bidirectional else nn.Identity()

    # Compilers write an LSTM out step by step, which takes them forever; libraries have it whole.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape."""
        states = self.lstm(x.permute(2, 0, 1))[0]  # (B, C, N) -> (N, B, C)
        mixed: Tensor = self.linear(states)
        return mixed.permute(1, 2, 0)


class Decoder(nn.ModuleList):
    """Levels of a convolution, GLU, a transposed convolution and, but for the last, ReLU.

    Args:
        channels: Channels of the output and of each level of the encoder, outermost first.
        padded: Have the convolution keep the length, by zeros at both ends.
    """

    def __init__(self, channels: Sequence[int], padded: bool) -> None:
        levels = [
            nn.Sequential(
                nn.Conv1d(before, 2 * before, _CONTEXT, padding=_CONTEXT // 2 if padded else 0),
                nn.GLU(1),
                nn.ConvTranspose1d(before, after, KERNEL_SIZE, STRIDE),
                nn.ReLU(),
            )
            for after, before in itertools.pairwise(channels)
        ]
        levels[0].pop(-1)
        super().__init__(reversed(levels))

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map (B, C, N) and the outputs of the encoder to (B, outputs, T)."""
        for level, skip in zip(self, reversed(skips), strict=True):
            x = level(x + centre(skip, x.shape[-1]))
        return x


class Decoders(nn.ModuleDict):
    """A decoder for each source, side by side."""

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map (B, C, N) and the outputs of the encoder to (B, S C, T)."""
        return torch.cat([decoder(x, skips) for decoder in self.values()], 1)


class DemucsNetwork(nn.Module):
    """The network: the mixture's waveform in, the sources' waveforms out.

    Parameters have the names that they had in the first two versions of the package ``demucs``.

    Args:
        sources: Names of the sources.
        audio_channels: Channels of mixture and estimates.
        channels: Channels of the first level; each further one has twice as many.
        depth: Levels of encoder and decoder.
        lstm_layers: Layers of the LSTM.
        bidirectional: Have the LSTM run both ways.
        padded: Pad the decoder's convolutions.
        resample: Work at twice the sample rate.
        decoder_per_source: Have a decoder for each source.
    """

    def __init__(
        self,
        sources: Sequence[str],
        audio_channels: int,
        channels: int,
        depth: int,
        lstm_layers: int,
        bidirectional: bool,
        padded: bool,
        resample: bool,
        decoder_per_source: bool,
    ) -> None:
        super().__init__()
        self.shape = (len(sources), audio_channels)
        self.padded = padded
        levels = [channels * 2**level for level in range(depth)]
        self.upsampling = Upsampling() if resample else None
        self.encoder = Encoder([audio_channels, *levels])
        self.lstm = BLSTM(levels[-1], lstm_layers, bidirectional)
        self.decoder = (
            Decoders({name: Decoder([audio_channels, *levels], padded) for name in sources})
            if decoder_per_source
            else Decoder([len(sources) * audio_channels, *levels], padded)
        )
        self.downsampling = Downsampling() if resample else None
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                _rescale(module)

    def valid_length(self, samples: int) -> int:
        """Smallest length from ``samples`` on at which no convolution leaves a sample over."""
        length = samples if self.upsampling is None else 2 * samples
        for _ in self.encoder:
            # Rounded up in whole numbers from 0 on, which all exported programs divide alike.
            length = (max(0, length - KERNEL_SIZE) + STRIDE - 1) // STRIDE + 1
            length += 0 if self.padded else _CONTEXT - 1
        for _ in self.encoder:
            length = (length - 1) * STRIDE + KERNEL_SIZE
        return length if self.upsampling is None else (length + 1) // 2

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to estimates (B, S, C, T), any T."""
        samples = mixture.shape[-1]
        lacking = self.valid_length(samples) - samples
        x = nn.functional.pad(mixture, (lacking // 2, lacking - lacking // 2))
        if self.upsampling is not None:
            x = self.upsampling(x)
        skips = self.encoder(x)
        x = self.decoder(self.lstm(skips[-1]), skips)
        if self.downsampling is not None:
            x = self.downsampling(x)
        estimates: Tensor = centre(x, samples).unflatten(1, self.shape)  # (B, S C, T)
        return estimates


@torch.no_grad()
def _rescale(convolution: nn.Conv1d | nn.ConvTranspose1d) -> None:
    """Bring the deviation of the weights half the way, in decibels, to the reference."""
    factor = (_REFERENCE / convolution.weight.std()).sqrt()
    for parameter in convolution.parameters():
        parameter.mul_(factor)


# ----------------------------------------------------------------- resampling


class Upsampling(nn.Module):
    """Twice the sample rate by interpolation with a windowed sinc, edges held.

    The filters are those of ``julius``, with which the package resamples.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(-_REACH, _REACH + 1)
        kernels = torch.stack([_low_pass(steps), _low_pass(steps - 0.5)])
        self.register_buffer("kernels", kernels[:, None], persistent=False)
        self.kernels: Tensor

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, 2 T), in single precision at least."""
        phases = _filtered(waveforms, self.kernels, (_REACH, _REACH), 1)  # (B C, 2, T)
        return phases.transpose(1, 2).reshape(*waveforms.shape[:2], -1)


class Downsampling(nn.Module):
    """Half the sample rate, without what would alias; as ``Upsampling``."""

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(1 - 2 * _REACH, 2 * _REACH + 1)
        self.register_buffer("kernel", _low_pass(steps / 2)[None, None], persistent=False)
        self.kernel: Tensor

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, C, 2 T) to (B, C, T), in single precision at least."""
        halved = _filtered(waveforms, self.kernel, (2 * _REACH - 1, 2 * _REACH), 2)
        return halved.view(*waveforms.shape[:2], -1)


# Zero crossings of the sinc on each side, its cut-off, and samples that it reaches over.
_ZEROS, _ROLLOFF = 24, 0.945
_REACH = math.ceil(_ZEROS / _ROLLOFF)


def _low_pass(times: Tensor) -> Tensor:
    """Filter whose weights, at times in samples of the lower rate, add up to one."""
    times = (times.double() * _ROLLOFF).clamp(-_ZEROS, _ZEROS)
    weights = torch.sinc(times) * torch.cos(torch.pi * times / _ZEROS / 2).square()
    return (weights / weights.sum()).float()


def _filtered(waveforms: Tensor, kernels: Tensor, edges: tuple[int, int], stride: int) -> Tensor:
    """Filter each channel: (B, C, T) by kernels (K, 1, n), for (B C, K, T / stride)."""
    flat = waveforms.reshape(-1, 1, waveforms.shape[-1])  # (B, C, T) -> (B C, 1, T)
    with torch.autocast(waveforms.device.type, enabled=False):
        held = nn.functional.pad(flat.to(kernels.dtype), edges, mode="replicate")
        return nn.functional.conv1d(held, kernels, stride=stride)


# ------------------------------------------------------------------ separator


class Demucs(WaveformSeparator):
    """Demucs for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first level; each further one has twice as many.
        depth: Levels of encoder and decoder.
        lstm_layers: Layers of the LSTM.
        bidirectional: Have the LSTM run both ways.
        padded: Pad the decoder's convolutions, as the package does from its third version on;
            else an estimate is made of whole receptive fields only, and more is padded at
            the edges of a crop.
        resample: Work at twice the sample rate, as the revision of 2020.
        decoder_per_source: Have a decoder for each source, behind a shared encoder and LSTM.
        **kwargs: Arguments of ``WaveformSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"channels": 4, "depth": 3}

    def __init__(
        self,
        sources: list[str],
        channels: int = 100,
        depth: int = 6,
        lstm_layers: int = 2,
        bidirectional: bool = True,
        padded: bool = False,
        resample: bool = False,
        decoder_per_source: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if min(channels, depth, lstm_layers) < 1:
            raise ValueError(
                f"channels is {channels}, depth {depth}, lstm_layers {lstm_layers}: give numbers "
                "from 1 on"
            )
        self.network = DemucsNetwork(
            self.sources,
            self.audio_channels,
            channels,
            depth,
            lstm_layers,
            bidirectional,
            padded,
            resample,
            decoder_per_source,
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture, with the mean of its channels brought to mean 0 and deviation 1.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        mono = mixture.mean(1, keepdim=True)  # (B, C, T) -> (B, 1, T)
        mean = mono.mean(-1, keepdim=True)
        # One sample alone has no unbiased deviation.
        deviation = mono.std(-1, keepdim=True, correction=min(1, mono.shape[-1] - 1))
        estimates = self.network((mixture - mean) / (_EPS + deviation))
        restored: Tensor = estimates * deviation[:, None] + mean[:, None]  # (B, 1, 1, 1)
        return restored.to(mixture.dtype)

"""Demucs: a waveform U-Net with an LSTM bottleneck.

Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the Waveform Domain",
arXiv:1911.13254, with details of the authors' package ``demucs`` that the paper does not print,
and its revision of 2020, which runs at twice the sample rate with fewer channels.
``interop.demucs`` loads the package's weights. Two variants are those of Goel, Huang, Owoputi and
Poudyal, Table 13 and section 5: a light one, with one unidirectional LSTM layer and no dense layer
after it, and one with a decoder per source. The depth of the latter is "reduced", without a
number; as skips join levels of the same size, encoder and decoders have the same depth here.

Departs from the papers: the input is standardised per chunk, as in later versions of the package;
the first versions standardised whole tracks, which a crop or a stream does not permit. With four
sources in stereo there are 648,548,208 parameters with 100 channels and 265,679,496 with 64 (our
counts).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.inference.options import Edges
from lightning_modules.inference.options import Window as OverlapWindow
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.cropping import centre

KERNEL_SIZE, STRIDE = 8, 4
# Kernel size of the decoder's GLU convolution.
_CONTEXT = 3
# Reference standard deviation of the rescaled initial weights.
_REFERENCE = 0.1
# Added to the input's standard deviation before dividing by it.
_EPS = 1e-5


class Encoder(nn.ModuleList):
    """Levels of strided convolution, ReLU, 1x1 convolution and GLU, outermost first."""

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
    """LSTM over time; if bidirectional, a dense layer halves its output channels."""

    def __init__(self, channels: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=bidirectional)
        self.linear = nn.Linear(2 * channels, channels) if bidirectional else nn.Identity()

    # torch.compile unrolls an LSTM over time, which takes minutes; cuDNN runs it as one kernel.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape."""
        frames: Tensor = self.linear(self.lstm(x.permute(2, 0, 1))[0])  # (N, B, C)
        return frames.permute(1, 2, 0)


class Decoder(nn.ModuleList):
    """Levels of convolution, GLU, transposed convolution and, except for the last, ReLU.

    ``channels`` are those of the output and of each level of the encoder, outermost first.
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
        """Map (B, C, N) and the encoder's outputs to (B, outputs, T)."""
        for level, skip in zip(self, reversed(skips), strict=True):
            x = level(x + centre(skip, x.shape[-1]))
        return x


class Decoders(nn.ModuleDict):
    """One decoder per source, on the same input."""

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map (B, C, N) and the encoder's outputs to (B, S C, T)."""
        return torch.cat([decoder(x, skips) for decoder in self.values()], 1)


class DemucsNetwork(nn.Module):
    """Maps the mixture's waveform to the sources' waveforms; arguments as in ``Demucs``.

    Parameters have the names of the first two versions of the package ``demucs``.
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
            Decoders(
                dict(
                    modules_by_source(
                        sources, lambda _: Decoder([audio_channels, *levels], padded)
                    ).items()
                )
            )
            if decoder_per_source
            else Decoder([len(sources) * audio_channels, *levels], padded)
        )
        self.downsampling = Downsampling() if resample else None
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                # The weights' deviation s becomes sqrt(s x reference).
                factor = (_REFERENCE / module.weight.detach().std()).sqrt()
                for parameter in module.parameters():
                    parameter.data.mul_(factor)

    def valid_length(self, samples: int) -> int:
        """Smallest length >= ``samples`` that all strides divide without remainder."""
        length = samples if self.upsampling is None else 2 * samples
        for _ in self.encoder:
            # Ceiling division of non-negative integers: all export formats round it the same way.
            length = (max(0, length - KERNEL_SIZE) + STRIDE - 1) // STRIDE + 1
            length += 0 if self.padded else _CONTEXT - 1
        for _ in self.encoder:
            length = (length - 1) * STRIDE + KERNEL_SIZE
        return length if self.upsampling is None else (length + 1) // 2

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to estimates (B, S, C, T), any T."""
        samples = mixture.shape[-1]
        padding = self.valid_length(samples) - samples
        x = nn.functional.pad(mixture, (padding // 2, padding - padding // 2))
        if self.upsampling is not None:
            x = self.upsampling(x)
        skips = self.encoder(x)
        x = self.decoder(self.lstm(skips[-1]), skips)
        if self.downsampling is not None:
            x = self.downsampling(x)
        estimates: Tensor = centre(x, samples).unflatten(1, self.shape)  # (B, S C, T)
        return estimates


class Upsampling(nn.Module):
    """Doubles the sample rate by windowed sinc interpolation; replicates the edges.

    Agrees with ``julius``, which the package uses, but can be exported for any length; torchaudio's
    resampling zero-pads the edges and does not normalise the filters.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(-_REACH, _REACH + 1)
        kernels = torch.stack([_low_pass(steps), _low_pass(steps - 0.5)])
        self.register_buffer("kernels", kernels[:, None], persistent=False)
        self.kernels: Tensor

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, 2 T), float32 or better."""
        phases = _filtered(waveforms, self.kernels, (_REACH, _REACH), 1)  # (B C, 2, T)
        return phases.transpose(1, 2).reshape(*waveforms.shape[:2], -1)


class Downsampling(nn.Module):
    """Halves the sample rate after low-pass filtering; see ``Upsampling``."""

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(1 - 2 * _REACH, 2 * _REACH + 1)
        self.register_buffer("kernel", _low_pass(steps / 2)[None, None], persistent=False)
        self.kernel: Tensor

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, C, 2 T) to (B, C, T), float32 or better."""
        halved = _filtered(waveforms, self.kernel, (2 * _REACH - 1, 2 * _REACH), 2)
        return halved.view(*waveforms.shape[:2], -1)


# Zero crossings of the sinc per side, cut-off relative to Nyquist, and half length in samples.
_ZEROS, _ROLLOFF = 24, 0.945
_REACH = math.ceil(_ZEROS / _ROLLOFF)


def _low_pass(times: Tensor) -> Tensor:
    """Normalised low-pass filter, sampled at ``times`` in samples of the lower rate."""
    times = (times.double() * _ROLLOFF).clamp(-_ZEROS, _ZEROS)
    weights = torch.sinc(times) * torch.cos(torch.pi * times / _ZEROS / 2).square()
    return (weights / weights.sum()).float()


def _filtered(waveforms: Tensor, kernels: Tensor, edges: tuple[int, int], stride: int) -> Tensor:
    """Filter each channel of (B, C, T) with kernels (K, 1, n); returns (B C, K, T / stride)."""
    flat = waveforms.reshape(-1, 1, waveforms.shape[-1])  # (B, C, T) -> (B C, 1, T)
    with torch.autocast(waveforms.device.type, enabled=False):
        padded = nn.functional.pad(flat.to(kernels.dtype), edges, mode="replicate")
        return nn.functional.conv1d(padded, kernels, stride=stride)


class DemucsSeparator(WaveformSeparator):
    """A model that separates songs by default as the package ``demucs`` does.

    Args:
        sources: Names of the sources, in the order of the estimates.
        overlap_window: As in ``SourceSeparator``; here triangles by default.
        edges: As in ``SourceSeparator``; here real context by default.
        normalise_mixture: As in ``SourceSeparator``; here true by default.
        **kwargs: Arguments of ``WaveformSeparator``.
    """

    def __init__(
        self,
        sources: list[str],
        overlap_window: OverlapWindow = "triangle",
        edges: Edges = "context",
        normalise_mixture: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources,
            overlap_window=overlap_window,
            edges=edges,
            normalise_mixture=normalise_mixture,
            **kwargs,
        )


class Demucs(DemucsSeparator):
    """Demucs for all sources at once.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first level; doubled at each further level.
        depth: Number of levels of encoder and decoder.
        lstm_layers: Number of LSTM layers.
        bidirectional: Use a bidirectional LSTM.
        padded: Zero-pad the decoder's GLU convolutions, as the package does since version 3;
            otherwise the mixture is padded by their receptive field.
        resample: Run at twice the sample rate, as the revision of 2020 does.
        decoder_per_source: Use one decoder per source after a shared encoder and LSTM.
        **kwargs: Arguments of ``DemucsSeparator``.
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
            sizes = f"channels is {channels}, depth {depth}, lstm_layers {lstm_layers}"
            raise ValueError(f"{sizes}: use numbers >= 1")
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
        """Separate mixtures (B, C, T), standardised by their channels' mean, into (B, S, C, T)."""
        mono = mixture.mean(1, keepdim=True)  # (B, C, T) -> (B, 1, T)
        mean = mono.mean(-1, keepdim=True)
        # The unbiased deviation of a single sample is NaN.
        deviation = mono.std(-1, keepdim=True, correction=min(1, mono.shape[-1] - 1))
        estimates: Tensor = self.network((mixture - mean) / (_EPS + deviation))
        return (estimates * deviation[:, None] + mean[:, None]).to(mixture.dtype)

"""Conv-TasNet: masks on a learned representation, estimated by a temporal convolutional network.

Luo and Mesgarani 2019, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech
Separation", arXiv:1809.07454, in two forms. ``speech`` is the paper's network; in mono it equals
torchaudio's. ``music`` is the network of Defossez, Usunier, Bottou and Bach 2019, "Music Source
Separation in the Waveform Domain", arXiv:1911.13254, as in their package: ReLU after the encoder,
per-frame layer norm before the bottleneck, convolutions without bias, masks from the output of the
last block instead of skip connections with a PReLU, no half frame of padding around the mixture,
and Xavier normal initialisation, also of the norms.

Departs from the papers: skip channels (Sc) equal bottleneck channels (B), as in Luo and Mesgarani's
best model. In the music form the mixture is not standardised, which the package does per track:
frames are normalised anyway, so estimates scale with the mixture. The last frame is padded with
zeros, where the package drops up to half a frame. If causal, the music form uses cumulative layer
norm, as Luo and Mesgarani do, where the package normalises each frame separately.

With four sources in stereo the music form has 10,977,872 parameters (our count). The speech form
with two sources and the sizes of the paper's best model has 4,984,881; the paper's 5.1 million
include the residual convolution of the last block, whose output is unused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.layers.checkpointing import checkpointed

Form = Literal["music", "speech"]
Mask = Literal["relu", "sigmoid"]

# Added to variances.
_EPS = 1e-8


class FrameNorm(nn.LayerNorm):
    """Layer norm over the channels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class GlobalNorm(nn.GroupNorm):
    """Global layer norm (gLN): over channels and frames of each example."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=_EPS)


class CumulativeNorm(nn.Module):
    """Cumulative layer norm (cLN): over the channels of the current and all past frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape; accumulates in float32 or better."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        _, channels, frames = x.shape
        counts = channels * torch.arange(1, frames + 1, device=x.device, dtype=wide.dtype)
        mean = wide.sum(1, keepdim=True).cumsum(-1) / counts  # (B, 1, N)
        power = wide.square().sum(1, keepdim=True).cumsum(-1) / counts
        scale = ((power - mean.square()).clamp_min(0) + _EPS).rsqrt()
        normalised = wide * scale - mean * scale
        scaled = torch.addcmul(self.bias[:, None], normalised, self.weight[:, None])
        return scaled.to(x.dtype)


class Block(nn.Module):
    """Residual block: 1x1 convolution, dilated depthwise convolution, 1x1 convolution.

    The speech form has biases and skip connections.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel: int,
        dilation: int,
        causal: bool,
        speech: bool,
        last: bool,
    ) -> None:
        super().__init__()
        norm = CumulativeNorm if causal else GlobalNorm
        reach = (kernel - 1) * dilation
        padding = 0 if causal else reach // 2
        depthwise = nn.Conv1d(hidden, hidden, kernel, 1, padding, dilation, hidden, speech)
        self.hidden = nn.Sequential(
            nn.Conv1d(channels, hidden, 1, bias=speech),
            nn.PReLU(),
            norm(hidden),
            *([nn.ConstantPad1d((reach, 0), 0.0)] if causal else []),
            depthwise,
            nn.PReLU(),
            norm(hidden),
        )
        # The speech form uses only the skip connection of the last block.
        self.residual = None if speech and last else nn.Conv1d(hidden, channels, 1, bias=speech)
        self.skip = nn.Conv1d(hidden, channels, 1) if speech else None

    def forward(self, x: Tensor, skips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map a signal (B, C, N) and the running sum of skip connections to their updates."""
        features = self.hidden(x)
        if self.residual is not None:
            x = x + self.residual(features)
        if self.skip is not None:
            skips = self.skip(features) if skips is None else skips + self.skip(features)
        return x, skips


class ConvTasNetwork(nn.Module):
    """Maps the mixture's waveform to the sources' waveforms; arguments as in ``ConvTasNet``."""

    def __init__(
        self,
        sources: int,
        audio_channels: int,
        filters: int,
        filter_samples: int,
        bottleneck_channels: int,
        hidden_channels: int,
        kernel: int,
        layers: int,
        repeats: int,
        speech: bool,
        mask: Mask,
        causal: bool,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.sources = sources
        self.filter_samples, self.stride = filter_samples, filter_samples // 2
        self.margin = self.stride if speech else 0
        self.checkpoint_activations = checkpoint_activations
        encoder = nn.Conv1d(audio_channels, filters, filter_samples, self.stride, bias=False)
        self.encoder = nn.Sequential(encoder, nn.Identity() if speech else nn.ReLU())
        norm = CumulativeNorm if causal else GlobalNorm
        self.bottleneck = nn.Sequential(
            norm(filters) if speech else FrameNorm(filters),
            nn.Conv1d(filters, bottleneck_channels, 1, bias=speech),
        )
        sizes, blocks = (bottleneck_channels, hidden_channels, kernel), layers * repeats
        self.blocks = nn.ModuleList(
            Block(*sizes, 2 ** (number % layers), causal, speech, last=number == blocks - 1)
            for number in range(blocks)
        )
        self.masks = nn.Sequential(
            nn.PReLU() if speech else nn.Identity(),
            nn.Conv1d(bottleneck_channels, sources * filters, 1, bias=speech),
            nn.ReLU() if mask == "relu" else nn.Sigmoid(),
        )
        # A linear layer per frame followed by overlap-add equals one transposed convolution.
        self.decoder = nn.ConvTranspose1d(
            filters, audio_channels, filter_samples, self.stride, bias=False
        )
        if not speech:
            _xavier(self)

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to estimates (B, S, C, T), any T."""
        samples, margin = mixture.shape[-1], self.margin
        excess = samples + 2 * margin - self.filter_samples  # samples after the first frame
        # Ceiling division of non-negative integers, which all export formats round the same way.
        steps = (max(0, excess) + self.stride - 1) // self.stride
        right = steps * self.stride - excess + margin
        frames = self.encoder(nn.functional.pad(mixture, (margin, right)))  # (B, filters, N)
        masked = self.estimate_masks(frames) * frames[:, None]
        waveforms = self.decoder(masked.flatten(0, 1)).narrow(-1, margin, samples)  # (B S, C, T)
        estimates: Tensor = waveforms.unflatten(0, (-1, self.sources))
        return estimates

    def estimate_masks(self, frames: Tensor) -> Tensor:
        """Estimate masks (B, S, filters, N) of frames (B, filters, N)."""
        x, skips = self.bottleneck(frames), None
        for block in self.blocks:
            if self.checkpoint_activations:
                x, skips = checkpointed(block, block, x, skips)
            else:
                x, skips = block(x, skips)
        masks = self.masks(x if skips is None else skips)  # (B, S filters, N)
        unflattened: Tensor = masks.unflatten(1, (self.sources, -1))
        return unflattened


@torch.no_grad()
def _xavier(network: ConvTasNetwork) -> None:
    """Initialise as the package demucs does: Xavier normal for all parameters but PReLU slopes."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.ConvTranspose1d):
            inputs, *outputs = module.weight.shape  # a linear layer in the package
            module.weight.normal_(std=math.sqrt(2 / (inputs + math.prod(outputs))))
        elif isinstance(module, FrameNorm | GlobalNorm | CumulativeNorm):
            for parameter in (module.weight, module.bias):
                parameter.normal_(std=math.sqrt(2 / (1 + len(parameter))))


class ConvTasNet(WaveformSeparator):
    """Conv-TasNet for all sources at once; capital letters as in Luo and Mesgarani, Table I.

    Args:
        sources: Names of the sources, in the order of the estimates.
        filters: N, number of filters of encoder and decoder.
        filter_samples: L, their length, samples, even; the stride is L / 2.
        bottleneck_channels: B, channels of the residual connections, and Sc, of the skip
            connections.
        hidden_channels: H, channels of the depthwise convolutions.
        kernel: P, their kernel size, frames, odd.
        layers: X, blocks per repeat, with dilations 1, 2, 4, ...
        repeats: R, number of repeats.
        form: ``music``, as Defossez et al., or ``speech``, as Luo and Mesgarani.
        mask: Activation of the masks, ``relu`` or ``sigmoid``.
        causal: Left-pad all convolutions and use cumulative (cLN) instead of global layer norm
            (gLN); the look-ahead is then less than L samples.
        checkpoint_activations: Keep only the inputs of blocks for the backward pass and recompute
            the rest: less memory, longer steps, the same gradients.
        **kwargs: Arguments of ``WaveformSeparator``.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        "filters": 8,
        "bottleneck_channels": 4,
        "hidden_channels": 8,
        "layers": 2,
        "repeats": 2,
    }
    changeable_hparams = WaveformSeparator.changeable_hparams | {"checkpoint_activations"}

    def __init__(
        self,
        sources: list[str],
        filters: int = 256,
        filter_samples: int = 20,
        bottleneck_channels: int = 256,
        hidden_channels: int = 512,
        kernel: int = 3,
        layers: int = 10,
        repeats: int = 4,
        form: Form = "music",
        mask: Mask = "relu",
        causal: bool = False,
        checkpoint_activations: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, **kwargs)
        if form not in get_args(Form):
            raise ValueError(f"form is {form!r}: use music or speech")
        if mask not in get_args(Mask):
            raise ValueError(f"mask is {mask!r}: use relu or sigmoid")
        if min(filters, bottleneck_channels, hidden_channels, layers, repeats) < 1:
            raise ValueError(
                f"filters is {filters}, bottleneck_channels {bottleneck_channels}, "
                f"hidden_channels {hidden_channels}, layers {layers}, repeats {repeats}: use "
                "numbers >= 1"
            )
        if filter_samples < 2 or filter_samples % 2 or kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"filter_samples is {filter_samples}, kernel {kernel}: use an even filter_samples "
                ">= 2 and an odd kernel"
            )
        self.network = ConvTasNetwork(
            len(self.sources),
            self.audio_channels,
            filters,
            filter_samples,
            bottleneck_channels,
            hidden_channels,
            kernel,
            layers,
            repeats,
            form == "speech",
            mask,
            causal,
            checkpoint_activations,
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate mixtures (B, C, T) into estimates (B, S, C, T), ordered as ``self.sources``."""
        estimates: Tensor = self.network(mixture)
        return estimates.to(mixture.dtype)

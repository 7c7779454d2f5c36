"""Conv-TasNet: masks for learned frames of the waveform, found by dilated convolutions.

Luo and Mesgarani 2019, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech
Separation", arXiv:1809.07454, in two forms. ``speech`` is the paper's, in mono torchaudio's.
``music`` is that of Defossez, Usunier, Bottou and Bach 2019, "Music Source Separation in the
Waveform Domain", arXiv:1911.13254, as their package has it: a ReLU behind the encoder, each frame
normalised by itself before the bottleneck, no biases, no skip connections with a PReLU behind
them, so that the last block's output makes the masks, no half a frame of zeros around the mixture,
and first weights from Xavier's normal distribution, those of norms among them.

Departs from the papers: there are as many skip channels (Sc) as bottleneck channels, as in Luo and
Mesgarani's best model. In the music form, the mixture is not brought to mean 0 and deviation 1,
which the package does for whole tracks: frames are normalised anyway, and so estimates follow the
mixture's loudness. Its end is filled with zeros to a whole frame, where the package leaves out up
to half a frame. And made causal, it normalises by what came so far, as Luo and Mesgarani do, where
the package normalises each frame by itself.

With four sources in stereo the music form has 10,977,872 parameters (our count). The speech form
with two sources and the sizes of the paper's best model has 4,984,881; the paper's 5.1 million
are these and a last residual convolution, which nothing reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_modules.base.waveform import WaveformSeparator

Form = Literal["music", "speech"]
Mask = Literal["relu", "sigmoid"]

# Added to variances.
_EPS = 1e-8


class FrameNorm(nn.LayerNorm):
    """Bring each frame to mean 0 and variance 1, then scale and shift each channel.

    Args:
        channels: Channels that come in, and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class GlobalNorm(nn.GroupNorm):
    """Bring each example to mean 0 and variance 1, then scale and shift each channel (gLN).

    Args:
        channels: Channels that come in, and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=_EPS)


class CumulativeNorm(nn.Module):
    """Bring frames to mean 0 and variance 1 by those up to each, then as ``GlobalNorm`` (cLN).

    Args:
        channels: Channels that come in, and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, N) to the same shape; sums are in single precision at least."""
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
    """A dilated convolution of each channel between two 1x1 convolutions, around which leads a way.

    Args:
        channels: Channels of what goes from block to block, and of the skip connections.
        hidden: Channels in the block.
        kernel: Length of the filters, frames, odd.
        dilation: Frames from one weight of a filter to the next.
        causal: Hear and normalise by nothing that is still to come.
        speech: Have biases and a skip connection.
        last: Nothing reads a block of the speech form behind this one.
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
        depthwise = nn.Conv1d(
            hidden,
            hidden,
            kernel,
            dilation=dilation,
            groups=hidden,
            padding=0 if causal else reach // 2,
            bias=speech,
        )
        self.hidden = nn.Sequential(
            nn.Conv1d(channels, hidden, 1, bias=speech),
            nn.PReLU(),
            norm(hidden),
            *([nn.ConstantPad1d((reach, 0), 0.0)] if causal else []),
            depthwise,
            nn.PReLU(),
            norm(hidden),
        )
        ends = speech and last
        self.residual = None if ends else nn.Conv1d(hidden, channels, 1, bias=speech)
        self.skip = nn.Conv1d(hidden, channels, 1) if speech else None

    def forward(self, x: Tensor, skips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map a signal (B, C, N), and the sum of skip connections so far, to the same two."""
        features = self.hidden(x)
        if self.residual is not None:
            x = x + self.residual(features)
        if self.skip is not None:
            skips = self.skip(features) if skips is None else skips + self.skip(features)
        return x, skips


class ConvTasNetwork(nn.Module):
    """The network: the mixture's waveform in, the sources' waveforms out.

    Args:
        sources: Number of sources.
        audio_channels: Channels of mixture and estimates.
        filters: Filters of the encoder.
        filter_samples: Length of the encoder's filters, samples, even.
        bottleneck_channels: Channels from block to block.
        hidden_channels: Channels in a block.
        kernel: Length of the filters in a block, frames, odd.
        layers: Blocks of a repeat.
        repeats: Times that dilations start again from 1.
        speech: Have Luo and Mesgarani's network in place of Defossez et al.'s.
        mask: What masks are made by.
        causal: Have blocks hear and normalise by nothing that is still to come.
        checkpoint_activations: Compute what is in a block once more in the backward pass.
    """

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
        whole = CumulativeNorm if causal else GlobalNorm
        self.bottleneck = nn.Sequential(
            whole(filters) if speech else FrameNorm(filters),
            nn.Conv1d(filters, bottleneck_channels, 1, bias=speech),
        )
        dilations = repeats * [2**layer for layer in range(layers)]
        self.blocks = nn.ModuleList(
            Block(
                bottleneck_channels,
                hidden_channels,
                kernel,
                dilation,
                causal,
                speech,
                last=number == len(dilations),
            )
            for number, dilation in enumerate(dilations, 1)
        )
        self.masks = nn.Sequential(
            nn.PReLU() if speech else nn.Identity(),
            nn.Conv1d(bottleneck_channels, sources * filters, 1, bias=speech),
            nn.ReLU() if mask == "relu" else nn.Sigmoid(),
        )
        # A linear layer on each frame with overlap-add behind it is one transposed convolution.
        self.decoder = nn.ConvTranspose1d(
            filters, audio_channels, filter_samples, self.stride, bias=False
        )
        if not speech:
            _xavier(self)

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to estimates (B, S, C, T), any T."""
        samples, margin = mixture.shape[-1], self.margin
        lacking = samples + 2 * margin - self.filter_samples
        # Rounded up in whole numbers from 0 on, which all exported programs divide alike.
        steps = (max(0, lacking) + self.stride - 1) // self.stride
        behind = steps * self.stride - lacking + margin
        frames = self.encoder(nn.functional.pad(mixture, (margin, behind)))  # (B, filters, N)
        masked = self.masks_of(frames) * frames[:, None]
        waveforms = self.decoder(masked.flatten(0, 1)).narrow(-1, margin, samples)  # (B S, C, T)
        estimates: Tensor = waveforms.unflatten(0, (-1, self.sources))
        return estimates

    def masks_of(self, frames: Tensor) -> Tensor:
        """Find the masks (B, S, filters, N) of frames (B, filters, N)."""
        x, skips = self.bottleneck(frames), None
        for block in self.blocks:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x, skips = checkpoint(
                    block, x, skips, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x, skips = block(x, skips)
        masks = self.masks(x if skips is None else skips)  # (B, S filters, N)
        unflattened: Tensor = masks.unflatten(1, (self.sources, -1))
        return unflattened


@torch.no_grad()
def _xavier(network: ConvTasNetwork) -> None:
    """Draw weights as the authors' package does, which takes all but PReLUs' for matrices."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.ConvTranspose1d):
            inputs, *outputs = module.weight.shape  # there it is a linear layer
            module.weight.normal_(std=math.sqrt(2 / (inputs + math.prod(outputs))))
        elif isinstance(module, FrameNorm | GlobalNorm | CumulativeNorm):
            for parameter in (module.weight, module.bias):
                parameter.normal_(std=math.sqrt(2 / (1 + len(parameter))))


class ConvTasNet(WaveformSeparator):
    """Conv-TasNet for all sources at once; letters are those of Luo and Mesgarani, Table I.

    Args:
        sources: Names of the sources, in the order of the estimates.
        filters: N, filters of encoder and decoder.
        filter_samples: L, their length, samples, even; frames overlap by half.
        bottleneck_channels: B, channels from block to block, and Sc, those of skip connections.
        hidden_channels: H, channels in a block.
        kernel: P, length of the filters in a block, frames, odd.
        layers: X, blocks of a repeat, with dilations of 1, 2, 4 and so on.
        repeats: R, times that the blocks are repeated.
        form: ``music`` as Defossez et al., or ``speech`` as Luo and Mesgarani.
        mask: What masks are made by, ``relu`` or ``sigmoid``.
        causal: Estimate each sample from less than a filter's length behind it: pad before
            frames alone, and normalise by those up to each (cLN) in place of all (gLN).
        checkpoint_activations: Keep what goes from block to block alone for the backward pass,
            and compute the rest once more there: less memory, longer steps, the same gradients.
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
            raise ValueError(f"form is {form!r}: give music or speech")
        if mask not in get_args(Mask):
            raise ValueError(f"mask is {mask!r}: give relu or sigmoid")
        if min(filters, bottleneck_channels, hidden_channels, layers, repeats) < 1:
            raise ValueError(
                f"filters is {filters}, bottleneck_channels {bottleneck_channels}, "
                f"hidden_channels {hidden_channels}, layers {layers}, repeats {repeats}: give "
                "numbers from 1 on"
            )
        if filter_samples < 2 or filter_samples % 2 or kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"filter_samples is {filter_samples}, kernel {kernel}: give an even number from 2 "
                "on, and an odd one"
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
        """Separate a mixture.

        Args:
            mixture: Waveform, nominally in [-1, 1], shape (B, C, T).

        Returns:
            Estimates, shape (B, S, C, T), ordered as ``self.sources``.
        """
        estimates: Tensor = self.network(mixture)
        return estimates.to(mixture.dtype)

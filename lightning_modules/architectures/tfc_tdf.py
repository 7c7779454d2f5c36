"""TFC-TDF v3, known as MDX23C: a U-Net of convolutions and of dense layers along the bins.

Kim, Lee and Jung 2023, "Sound demixing challenge 2023 music demixing track technical report:
TFC-TDF-UNet v3", arXiv:2306.09382. Estimates agree with those of the packages ``msst`` and
``mdxnet-infer`` with the same weights. It has 111,990,272 parameters for two stereo sources,
111,994,368 for four (our counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.base.complex_spectrum import ComplexSpectrumSeparator, check_bins
from lightning_modules.layers.checkpointing import checkpointed


class Activated(nn.Module):
    """Instance norm and GELU, then a layer.

    In training, norm and GELU are computed again in the backward pass: their two results need two
    thirds of the memory, and computing them takes a fiftieth of the time of a convolution.

    Args:
        channels: Channels of the input.
        layer: The layer.
    """

    def __init__(self, channels: int, layer: nn.Module) -> None:
        super().__init__()
        # One group per channel is an instance norm, and faster than torch's InstanceNorm2d.
        self.norm = nn.GroupNorm(channels, channels)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F) to the layer's output."""
        output: Tensor = self.layer(checkpointed(self, self.activated, x))
        return output

    def activated(self, x: Tensor) -> Tensor:
        """Apply norm and GELU."""
        return functional.gelu(self.norm(x))


class Block(nn.Module):
    """Convolution, dense layers along the bins, convolution, each after norm and GELU.

    Args:
        inputs: Channels of the input.
        channels: Channels of the output.
        bins: Number of bins.
        bottleneck: Bins, divided by the features between the dense layers.
    """

    def __init__(self, inputs: int, channels: int, bins: int, bottleneck: int) -> None:
        super().__init__()
        hidden = bins // bottleneck
        self.shortcut = nn.Conv2d(inputs, channels, 1, bias=False)
        self.before = Activated(inputs, nn.Conv2d(inputs, channels, 3, padding=1, bias=False))
        self.dense = nn.Sequential(
            Activated(channels, nn.Linear(bins, hidden, bias=False)),
            Activated(channels, nn.Linear(hidden, bins, bias=False)),
        )
        self.after = Activated(channels, nn.Conv2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F) to (B, C', N, F)."""
        shortcut = self.shortcut(x)
        x = self.before(x)
        x = x + self.dense(x)
        output: Tensor = self.after(x) + shortcut
        return output


class Blocks(nn.Sequential):
    """Blocks of one scale.

    Args:
        inputs: Channels of the input.
        channels: Channels of the output.
        number: Number of blocks.
        bins: Number of bins.
        bottleneck: Bins, divided by the features between the dense layers of a block.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        number: int,
        bins: int,
        bottleneck: int,
        checkpoint_activations: bool,
    ) -> None:
        given = [inputs, *[channels] * (number - 1)]
        super().__init__(*(Block(before, channels, bins, bottleneck) for before in given))
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F) to (B, C', N, F)."""
        for block in self:
            recompute = self.checkpoint_activations and self.training
            x = checkpointed(block, block, x) if recompute else block(x)
        return x


class TFCTDF(ComplexSpectrumSeparator):
    """TFC-TDF v3.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first scale.
        growth: Channels that each further scale has more.
        scales: Number of times that the resolution is reduced.
        scale: Factors of a reduction, frames and bins.
        blocks: Blocks of each scale.
        bottleneck: Bins of a scale, divided by the features between its dense layers.
        subbands: Equal bands of the spectrum that become channels.
        bins: Bins of the spectrum from bin 0 on that are estimated; others are zero.
        checkpoint_activations: Recompute activations of blocks in the backward pass: less memory,
            slower steps.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples, less than half a frame. Chunks are used without
            padding if their length is ``hop_length * (n - 1)``, with n a multiple of the total
            reduction of frames.
        **kwargs: Arguments of ``ComplexSpectrumSeparator``.
    """

    changeable_hparams = ComplexSpectrumSeparator.changeable_hparams.union(
        ("checkpoint_activations", "zero_dc")
    )
    tiny: ClassVar[Mapping[str, Any]] = {
        "channels": 4, "growth": 2, "scales": 2, "blocks": 1, "bins": 128, "n_fft": 256,
        "hop_length": 64,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        channels: int = 128,
        growth: int = 128,
        scales: int = 5,
        scale: Sequence[int] = (2, 2),
        blocks: int = 2,
        bottleneck: int = 4,
        subbands: int = 4,
        bins: int = 4096,
        checkpoint_activations: bool = False,
        n_fft: int = 8192,
        hop_length: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(sources, n_fft=n_fft, hop_length=hop_length, **kwargs)
        sizes = (channels, scales, blocks, bottleneck, subbands, *scale)
        if min(sizes) < 1 or growth < 0 or len(scale) != 2:
            raise ValueError(
                f"channels is {channels}, scales {scales}, blocks {blocks}, bottleneck "
                f"{bottleneck}, subbands {subbands}, scale {list(scale)}, growth {growth}: use "
                "numbers of at least 1, two factors as scale, and a growth of at least 0"
            )
        reduced = bins // subbands // scale[1] ** scales  # bins of the smallest scale
        if bins != reduced * subbands * scale[1] ** scales or reduced < max(2, bottleneck):
            raise ValueError(
                f"bins is {bins}, with {subbands} subbands and {scales} reductions by {scale[1]}: "
                f"use a multiple of {subbands * scale[1] ** scales} so large that the smallest "
                f"scale has at least {max(2, bottleneck)} bins"
            )
        check_bins(n_fft, hop_length, bins)
        self.subbands, self.bins, self.frame_multiple = subbands, bins, scale[0] ** scales
        parts, factors = 2 * self.audio_channels * subbands, (scale[0], scale[1])

        def blocks_of(inputs: int, level: int) -> Blocks:
            size = bins // subbands // scale[1] ** level
            return Blocks(
                inputs, channels + level * growth, blocks, size, bottleneck, checkpoint_activations
            )

        widths = [channels + level * growth for level in range(scales + 1)]
        pairs = list(pairwise(widths))
        self.first = nn.Conv2d(parts, channels, 1, bias=False)
        self.encoder = nn.ModuleList(blocks_of(widths[level], level) for level in range(scales))
        self.down = nn.ModuleList(
            Activated(wide, nn.Conv2d(wide, wider, factors, factors, bias=False))
            for wide, wider in pairs
        )
        self.middle = blocks_of(widths[-1], scales)
        self.up = nn.ModuleList(
            Activated(wider, nn.ConvTranspose2d(wider, wide, factors, factors, bias=False))
            for wide, wider in reversed(pairs)
        )
        self.decoder = nn.ModuleList(
            blocks_of(2 * widths[level], level) for level in reversed(range(scales))
        )
        self.last = nn.Sequential(
            nn.Conv2d(channels + parts, channels, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(channels, len(sources) * parts, 1, bias=False),
        )

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to its spectrum (B, 2 C, F, N), with N a multiple."""
        frames = -(-mixture.shape[-1] // self.hop_length) + 1
        return super().network_input(self.lengthened(mixture, frames, self.frame_multiple))

    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra (B, S, 2 C, F, N) from the mixture's (B, 2 C, F, N)."""
        # (B, 2 C, F, N) -> (B, 2 C subbands, N, F'): dense layers map the last axis
        bands = mixture[:, :, : self.bins].unflatten(2, (self.subbands, -1)).flatten(1, 2)
        bands = bands.transpose(2, 3).contiguous()
        first = x = self.first(bands)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, blocks in zip(self.up, self.decoder, strict=True):
            x = blocks(torch.cat((up(x), skips.pop()), 1))
        x = self.last(torch.cat((bands, x * first), 1)).transpose(2, 3)
        x = x.unflatten(1, (len(self.sources), -1, self.subbands)).flatten(3, 4)
        return functional.pad(x, (0, 0, 0, mixture.shape[2] - self.bins))

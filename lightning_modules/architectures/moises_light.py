"""Moises-Light: a small U-Net of equal bands, with rotary transformers at its smallest scale.

Hung, Pereira and Korzeniowski 2025, "Moises-Light: resource-efficient band-split U-Net for music
source separation", arXiv:2510.06785. The authors published no code. Estimates agree with those of
the unofficial package ``moises-light`` 0.1.5 with the same weights. With four stereo sources it has
5,451,056 parameters, the paper's small one 2,558,576; the package counts 160 and 192 more, rotary
frequencies, which are not trained.

As in the package, where the paper is silent: scales reduce frames only; the outer scales of the
decoder have no blocks; the sizes of the transformers; input with zero mean and unit deviation.
Departs from the paper: several sources share one network, whose last layer is then one more
convolution. One source, such as ``sources: [vocals]``, is estimated as in the paper.

The paper's network estimates spectra. ``estimate: mask`` is the package's default: real numbers,
by which real and imaginary parts of the mixture are multiplied, each by its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.base.complex_spectrum import ComplexSpectrumSeparator, check_bins
from lightning_modules.layers.attention import RMSNorm, Transformer
from lightning_modules.layers.axial import AxialBlock, AxialBlocks
from lightning_modules.layers.multiplicative_unet import (
    MultiplicativeUNet,
    ResidualTFCTDF,
    activated,
)
from lightning_modules.losses import MultiResolutionComplexSTFT, SourceLoss

# Added to the deviation of a spectrum.
_EPS = 1e-5


class MoisesLight(ComplexSpectrumSeparator):
    """Moises-Light.

    Args:
        sources: Names of the sources, in the order of the estimates.
        channels: Channels of the first scale, and those that each further scale has more.
        scales: Number of times that the number of frames is halved.
        depth: Convolutions before and after the dense layers of a block, in the encoder and at the
            smallest scale.
        decoder_blocks: Scales of the decoder with a block, from the smallest on.
        decoder_depth: ``depth`` of the decoder's blocks.
        bottleneck: Bins of a band, divided by the features between its dense layers.
        kernel: Kernel of the first and the last convolution, odd.
        blocks: Blocks of a transformer along frames and one along bins.
        heads: Heads of their attention.
        head_features: Features of a head, even.
        expansion: Hidden width of their feed-forward layers, as a multiple of the features.
        attention_dropout: Dropout of attention.
        feedforward_dropout: Dropout of the feed-forward layers.
        subbands: Equal bands of the spectrum, which convolutions do not mix.
        bins: Bins of the spectrum from bin 0 on that are estimated; others are zero.
        estimate: ``spectrum``, as in the paper; or ``mask``.
        checkpoint_activations: Recompute activations of blocks in the backward pass: less memory,
            slower steps.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples, less than half a frame.
        normalized: Divide spectra by the root of ``n_fft``.
        loss_function: Training loss; by default the paper's, ``MultiResolutionComplexSTFT``.
        **kwargs: Arguments of ``ComplexSpectrumSeparator``.
    """

    changeable_hparams = ComplexSpectrumSeparator.changeable_hparams.union(
        ("attention_dropout", "checkpoint_activations", "feedforward_dropout", "zero_dc")
    )
    tiny: ClassVar[Mapping[str, Any]] = {
        "channels": 12, "scales": 2, "depth": 1, "blocks": 1, "heads": 2, "head_features": 4,
        "bins": 96, "n_fft": 256, "hop_length": 64,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        channels: int = 56,
        scales: int = 3,
        depth: int = 3,
        decoder_blocks: int = 1,
        decoder_depth: int = 1,
        bottleneck: int = 8,
        kernel: int = 3,
        blocks: int = 5,
        heads: int = 4,
        head_features: int = 32,
        expansion: int = 2,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        subbands: int = 4,
        bins: int = 2048,
        estimate: Literal["spectrum", "mask"] = "spectrum",
        checkpoint_activations: bool = False,
        n_fft: int = 6144,
        hop_length: int = 1024,
        normalized: bool = True,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources, n_fft=n_fft, hop_length=hop_length, normalized=normalized,
            loss_function=loss_function or MultiResolutionComplexSTFT(), **kwargs,
        )  # fmt: skip
        sizes = {
            "channels": channels, "scales": scales, "depth": depth, "decoder_depth": decoder_depth,
            "bottleneck": bottleneck, "kernel": kernel, "heads": heads, "subbands": subbands,
            "head_features": head_features, "expansion": expansion, "blocks": blocks,
        }  # fmt: skip
        if min(sizes.values()) < 1 or kernel % 2 == 0 or head_features % 2:
            raise ValueError(
                f"{', '.join(f'{name} is {size}' for name, size in sizes.items())}: use sizes of "
                "at least 1, an odd kernel and even head_features"
            )
        if not 0 <= decoder_blocks <= scales or estimate not in ("spectrum", "mask"):
            raise ValueError(
                f"decoder_blocks is {decoder_blocks} with {scales} scales, estimate {estimate!r}: "
                "use at most one block per scale, and spectrum or mask"
            )
        if channels % subbands or bins % subbands or bins < bottleneck * subbands:
            raise ValueError(
                f"channels is {channels} and bins {bins} with {subbands} subbands and a "
                f"bottleneck of {bottleneck}: use multiples of {subbands}, and at least "
                f"{bottleneck * subbands} bins"
            )
        check_bins(n_fft, hop_length, bins)
        self.subbands, self.bins, self.frame_multiple = subbands, bins, 2**scales
        self.estimate = estimate
        parts = 2 * self.audio_channels

        def block(level: int, convolutions: int) -> ResidualTFCTDF:
            return ResidualTFCTDF(
                channels * (level + 1), bins // subbands, bottleneck, convolutions, subbands,
                biases=True, checkpoint_activations=checkpoint_activations,
            )  # fmt: skip

        def transformer() -> Transformer:
            return Transformer(
                features, 1, heads, head_features, expansion, attention_dropout,
                feedforward_dropout,
            )  # fmt: skip

        features = channels * (scales + 1)
        middle = AxialBlocks(
            *(
                AxialBlock(transformer(), transformer(), checkpoint_activations)
                for _ in range(blocks)
            ),
            RMSNorm(features),
        )
        decoder = [
            block(level, decoder_depth) if scales - level <= decoder_blocks else nn.Identity()
            for level in reversed(range(scales))
        ]

        def edge(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=subbands)

        self.first = activated(edge(subbands * parts, channels), channels)
        self.unet = MultiplicativeUNet(
            channels,
            (2, 1),
            [block(level, depth) for level in range(scales)],
            nn.Sequential(block(scales, depth), middle),
            decoder,
        )
        self.last = edge(channels, subbands * parts)
        several = len(sources) > 1
        self.sources_head = nn.Conv2d(parts, len(sources) * parts, 1) if several else nn.Identity()

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to its spectrum (B, 2 C, F, N), with N a multiple."""
        frames = mixture.shape[-1] // self.hop_length + 2
        return super().network_input(self.lengthened(mixture, frames, self.frame_multiple))

    def spectra(self, mixture: Tensor) -> Tensor:
        """Estimate the sources' spectra (B, S, 2 C, F, N) from the mixture's (B, 2 C, F, N)."""
        given = mixture[:, :, : self.bins]
        deviation, mean = torch.std_mean(given, (1, 2, 3), keepdim=True)
        x = (given - mean) / (deviation + _EPS)
        # (B, 2 C, F, N) -> (B, subbands 2 C, N, F'): dense layers map the last axis
        x = x.unflatten(2, (self.subbands, -1)).transpose(1, 2).flatten(1, 2)
        x = self.last(self.unet(self.first(x.transpose(2, 3).contiguous())))
        x = x.transpose(2, 3).unflatten(1, (self.subbands, -1)).transpose(1, 2).flatten(2, 3)
        x = self.sources_head(x).float().unflatten(1, (len(self.sources), -1))
        if self.estimate == "mask":
            x = x * given[:, None]
        else:
            x = x * deviation[:, None] + mean[:, None]
        return functional.pad(x, (0, 0, 0, mixture.shape[2] - self.bins))

"""DTTNet: a U-Net of TFC-TDF blocks with LSTMs at its smallest scale, one network per source.

Chen, Vekkot and Shukla 2024, "Music source separation based on a lightweight deep learning
framework (DTTNET: dual-path TFC-TDF UNet)", arXiv:2309.08684. In stereo a network has 4,958,468
parameters, that of bass 4,184,388; the paper prints 4.97 million, which is this number and the
10,244 values of a window and of bins without estimates. Spectra and gradients agree with those of
the authors' code with the same weights.

Departs from the paper: the sources' networks are trained together. Each makes the same steps as if
it were trained alone. One source, such as ``sources: [vocals]``, is trained as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import counted
from lightning_modules.base.complex_spectrum import check_bins
from lightning_modules.base.network_per_source import ComplexNetworkPerSource
from lightning_modules.layers.axial import AxialBlock, AxialBlocks
from lightning_modules.layers.blstm import ResidualBLSTM
from lightning_modules.layers.by_source import modules_by_source
from lightning_modules.layers.multiplicative_unet import (
    MultiplicativeUNet,
    ResidualTFCTDF,
    activated,
)
from lightning_modules.losses import L1, SourceLoss

# The paper's, by source; `other` has those of all others, too.
_BINS = {"bass": 864, "other": 2048}
_BOTTLENECKS = {"bass": 2, "other": 8}


class DTTNetNetwork(nn.Module):
    """The network of one source: maps the mixture's spectrum to the source's.

    Arguments as in ``DTTNet``; ``parts`` is the number of real numbers per bin.
    """

    def __init__(
        self,
        parts: int,
        bins: int,
        bottleneck: int,
        channels: int,
        scales: int,
        depth: int,
        blocks: int,
        heads: int,
        expansion: int,
        norm_groups: int,
        checkpoint_activations: bool,
    ) -> None:
        super().__init__()
        self.bins = bins

        def block(level: int) -> ResidualTFCTDF:
            return ResidualTFCTDF(
                channels * (level + 1), bins // 2**level, bottleneck, depth,
                checkpoint_activations=checkpoint_activations,
            )  # fmt: skip

        def lstm() -> ResidualBLSTM:
            features = channels * (scales + 1) // heads
            return ResidualBLSTM(features, expansion * features, norm_groups)

        self.first = activated(nn.Conv2d(parts, channels, 1), channels)
        blocks_of_lstms = (
            AxialBlock(lstm(), lstm(), checkpoint_activations) for _ in range(blocks)
        )
        self.unet = MultiplicativeUNet(
            channels,
            (2, 2),
            [block(level) for level in range(scales)],
            nn.Sequential(block(scales), AxialBlocks(*blocks_of_lstms, heads=heads)),
            [block(level) for level in reversed(range(scales))],
        )
        self.last = nn.Conv2d(channels, parts, 1)

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a spectrum (B, 2 C, F, N) to a spectrum of the same shape."""
        # Dense layers map the last axis: (B, 2 C, F, N) -> (B, 2 C, N, F')
        x = mixture[:, :, : self.bins].transpose(2, 3).contiguous()
        x = self.last(self.unet(self.first(x))).transpose(2, 3)
        return functional.pad(x, (0, 0, 0, mixture.shape[2] - self.bins))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers before and after the LSTMs, which Dynamo unrolls over time."""
        unet, middle = self.unet, next(self.unet.middle.children())
        levels = (*unet.encoder, *unet.down, *unet.up, *unet.decoder)
        for part in (self.first, *levels, middle, self.last):
            part.compile(*args, **kwargs)


class DTTNet(ComplexNetworkPerSource):
    """DTTNet, one network per source.

    Args:
        sources: Names of the sources, in the order of the estimates.
        bins: Bins of the spectrum from bin 0 on that are estimated, for all sources or by source;
            others are zero. Sources without an entry have the paper's number: 864 for ``bass``,
            2048 for others.
        bottleneck: Bins of a scale, divided by the features between its dense layers, likewise; in
            the paper 2 for ``bass``, 8 for others.
        channels: Channels of the first scale, and those that each further scale has more.
        scales: Number of times that the resolution of frames and bins is halved.
        depth: Convolutions before and after the dense layers of a block.
        blocks: Blocks of an LSTM along frames and one along bins.
        heads: Heads; each LSTM maps a part of the channels per head, with the same weights.
        expansion: Features of each direction of an LSTM, as a multiple of its input.
        norm_groups: Groups of the features of a head, which group norms normalise separately.
        checkpoint_activations: Recompute activations of blocks in the backward pass: less memory,
            slower steps.
        n_fft: Length of a frame, samples.
        hop_length: Hop between frames, samples, less than half a frame. Chunks are used without
            padding if their length is ``hop_length * (n - 1)``, with n a multiple of the total
            reduction of frames.
        loss_function: Training loss; by default the paper's, ``L1``.
        **kwargs: Arguments of ``ComplexNetworkPerSource``.
    """

    changeable_hparams = ComplexNetworkPerSource.changeable_hparams.union(
        ("checkpoint_activations", "zero_dc")
    )
    tiny: ClassVar[Mapping[str, Any]] = {
        "bins": 64, "bottleneck": 2, "channels": 4, "scales": 1, "depth": 1, "blocks": 1,
        "norm_groups": 2, "n_fft": 256, "hop_length": 64,
    }  # fmt: skip

    def __init__(
        self,
        sources: list[str],
        bins: dict[str, int] | int | None = None,
        bottleneck: dict[str, int] | int | None = None,
        channels: int = 32,
        scales: int = 2,
        depth: int = 3,
        blocks: int = 4,
        heads: int = 2,
        expansion: int = 2,
        norm_groups: int = 3,
        checkpoint_activations: bool = False,
        n_fft: int = 6144,
        hop_length: int = 1024,
        loss_function: SourceLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sources, n_fft=n_fft, hop_length=hop_length, loss_function=loss_function or L1(),
            **kwargs,
        )  # fmt: skip
        if min(channels, scales, depth, blocks, heads, expansion, norm_groups) < 1:
            raise ValueError(
                f"channels is {channels}, scales {scales}, depth {depth}, blocks {blocks}, heads "
                f"{heads}, expansion {expansion}, norm_groups {norm_groups}: use numbers >= 1"
            )
        features = channels * (scales + 1)
        if features % (heads * norm_groups):
            raise ValueError(
                f"heads is {heads} and norm_groups {norm_groups}, but the smallest scale has "
                f"{counted(features, 'channel')}: use a multiple of {heads * norm_groups}"
            )
        self.frame_multiple = 2**scales
        by_source = self._by_source("bins", bins, _BINS)
        bottlenecks = self._by_source("bottleneck", bottleneck, _BOTTLENECKS)
        for source in self.sources:
            self._check_sizes(source, by_source[source], bottlenecks[source])
        self.networks = modules_by_source(
            self.sources,
            lambda source: DTTNetNetwork(
                2 * self.audio_channels, by_source[source], bottlenecks[source], channels, scales,
                depth, blocks, heads, expansion, norm_groups, checkpoint_activations,
            ),
        )  # fmt: skip

    def network_input(self, mixture: Tensor) -> Tensor:
        """Map a mixture (B, C, T) to its spectrum (B, 2 C, F, N), with N a multiple."""
        frames = -(-mixture.shape[-1] // self.hop_length) + 1
        return super().network_input(self.lengthened(mixture, frames, self.frame_multiple))

    def _by_source(
        self, name: str, given: dict[str, int] | int | None, paper: Mapping[str, int]
    ) -> dict[str, int]:
        """Return a setting by source; raises if it names another source."""
        if isinstance(given, int):
            return dict.fromkeys(self.sources, given)
        unknown = sorted(set(given or {}) - set(self.sources))
        if unknown:
            raise ValueError(
                f"{name} has {', '.join(unknown)}, but the sources are {', '.join(self.sources)}: "
                f"give {name} for these"
            )
        default = {source: paper.get(source, paper["other"]) for source in self.sources}
        return {**default, **(given or {})}

    def _check_sizes(self, source: str, bins: int, bottleneck: int) -> None:
        """Raise if a source's bins cannot be halved so often."""
        smallest = max(1, bottleneck) * self.frame_multiple
        if bottleneck < 1 or bins % self.frame_multiple or bins < smallest:
            raise ValueError(
                f"{source} has {bins} bins with a bottleneck of {bottleneck}: use a bottleneck of "
                f"at least 1, and a multiple of {self.frame_multiple} bins, at least {smallest}"
            )
        check_bins(self.n_fft, self.hop_length, bins)

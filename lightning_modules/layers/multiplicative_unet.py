"""U-Net of residual TFC-TDF blocks whose decoder multiplies by the encoder's features.

Chen, Vekkot and Shukla 2024 (DTTNet), after Kim, Choi, Chung, Lee and Jung 2021, "KUIELab-MDX-Net:
a two-stream neural network for music demixing". Images are (B, C, N, F): dense layers map bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_modules.layers.checkpointing import checkpointed


def activated(layer: nn.Module, channels: int) -> nn.Sequential:
    """Return a layer with a batch norm of its output channels and a ReLU."""
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class ResidualTFCTDF(nn.Module):
    """``conv(x) + convs(h + dense(h))`` with ``h = convs(x)``; each layer with batch norm and ReLU.

    Args:
        channels: C.
        bins: F.
        bottleneck: Bins, divided by the features between the two dense layers.
        depth: Convolutions before the dense layers, and after them.
        groups: Groups of channels that convolutions do not mix.
        biases: Add biases in the dense layers.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        bottleneck: int,
        depth: int,
        groups: int = 1,
        biases: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()

        def convolutions(number: int) -> nn.Sequential:
            layers = (
                nn.Conv2d(channels, channels, 3, padding=1, groups=groups) for _ in range(number)
            )
            return nn.Sequential(*(activated(layer, channels) for layer in layers))

        hidden = bins // bottleneck
        self.shortcut = convolutions(1)
        self.before = convolutions(depth)
        self.dense = nn.Sequential(
            activated(nn.Linear(bins, hidden, bias=biases), channels),
            activated(nn.Linear(hidden, bins, bias=biases), channels),
        )
        self.after = convolutions(depth)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F) to the same shape."""
        if self.checkpoint_activations and self.training:
            return checkpointed(self, self.mapped, x)
        return self.mapped(x)

    def mapped(self, x: Tensor) -> Tensor:
        """``forward`` without checkpointing."""
        hidden = self.before(x)
        hidden = self.after(hidden + self.dense(hidden))
        output: Tensor = hidden + self.shortcut(x)
        return output


class MultiplicativeUNet(nn.Module):
    """U-Net whose decoder multiplies by the encoder's features of the same scale.

    Args:
        channels: Channels of the first scale, and those that each further scale has more.
        factors: Factors of a reduction of the resolution, frames and bins.
        encoder: A network per scale but the smallest; it keeps the shape of images.
        middle: Network of the smallest scale, which also keeps the shape.
        decoder: As ``encoder``, from small to large.
    """

    def __init__(
        self,
        channels: int,
        factors: tuple[int, int],
        encoder: Sequence[nn.Module],
        middle: nn.Module,
        decoder: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        pairs = list(pairwise(channels * (level + 1) for level in range(len(encoder) + 1)))
        self.encoder, self.middle, self.decoder = (
            nn.ModuleList(encoder), middle, nn.ModuleList(decoder),
        )  # fmt: skip
        self.down = nn.ModuleList(
            activated(nn.Conv2d(wide, wider, factors, factors), wider) for wide, wider in pairs
        )
        self.up = nn.ModuleList(
            activated(nn.ConvTranspose2d(wider, wide, factors, factors), wide)
            for wide, wider in reversed(pairs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F), divisible by all factors, to the same shape."""
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(up(x) * skips.pop())
        return x

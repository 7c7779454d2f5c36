"""Sequence layers along one axis of an image after the other."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.layers.checkpointing import checkpointed


class AxialBlock(nn.Module):
    """A network along time, then one along bands; each maps sequences (R, N, D) to that shape.

    Args:
        time: Network along the frames of each band.
        bands: Network along the bands of each frame.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self, time: nn.Module, bands: nn.Module, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        self.time, self.bands = time, bands
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        """Map features of bands and frames (B, K, N, D) to the same shape."""
        if self.checkpoint_activations and self.training:
            return checkpointed(self, self.both, x, random=True)
        return self.both(x)

    def both(self, x: Tensor) -> Tensor:
        """``forward`` without checkpointing."""
        batch, bands, frames, _ = x.shape
        x = self.time(x.flatten(0, 1)).unflatten(0, (batch, bands))
        x = x.transpose(1, 2).reshape(batch * frames, bands, -1)
        mixed: Tensor = self.bands(x).unflatten(0, (batch, frames)).transpose(1, 2)
        return mixed


class AxialBlocks(nn.Sequential):
    """Axial blocks on images, whose channels are features, shared by heads.

    Args:
        *blocks: Blocks of C / H features, and other networks on features (..., C / H).
        heads: H. Each maps a part of the channels, with the same weights.
    """

    def __init__(self, *blocks: nn.Module, heads: int = 1) -> None:
        super().__init__(*blocks)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, N, F) to the same shape."""
        # (B, C, N, F) -> (B H, C / H, N, F) -> (B H, F, N, C / H)
        x = x.unflatten(1, (self.heads, -1)).flatten(0, 1).permute(0, 3, 2, 1)
        for block in self:
            x = block(x)
        x = x.permute(0, 3, 2, 1).unflatten(0, (-1, self.heads))
        return x.flatten(1, 2)

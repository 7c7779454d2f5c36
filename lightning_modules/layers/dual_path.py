"""Dual-path layers: a network along the bins of a spectrum, then one along its frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.layers.checkpointing import checkpointed


class DualPathLayer(nn.Module):
    """``x + network(norm(x))`` along bins, then along frames.

    Args:
        features: D.
        build: Builds a network that maps sequences (R, N, D) to that shape.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        features: int,
        build: Callable[[int], nn.Module],
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, features) for _ in range(2))
        self.bins, self.frames = build(features), build(features)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        """Map features of bins and frames (B, F, N, D) to the same shape."""
        for residual in (self.along_bins, self.along_frames):
            if self.checkpoint_activations and self.training:
                x = x + checkpointed(self, residual, x, random=True)
            else:
                x = x + residual(x)
        return x

    def along_bins(self, x: Tensor) -> Tensor:
        """Apply norm and network to the bins of each frame."""
        rows = self._normed(0, x).transpose(1, 2)  # (B, N, F, D)
        mapped: Tensor = self.bins(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return mapped.transpose(1, 2)

    def along_frames(self, x: Tensor) -> Tensor:
        """Apply norm and network to the frames of each bin."""
        rows = self._normed(1, x)
        mapped: Tensor = self.frames(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return mapped

    def _normed(self, axis: int, x: Tensor) -> Tensor:
        normed: Tensor = self.norms[axis](x.movedim(-1, 1))  # one group: all of (F, N, D)
        return normed.movedim(1, -1)


def frames_to_spectrum(x: Tensor) -> Tensor:
    """Transform along frames: (B, F, N, D) -> real and imaginary parts (B, F, N / 2 + 1, 2 D).

    In float32; N is even.
    """
    spectrum = torch.fft.rfft(x.float(), dim=2, norm="ortho")
    return torch.cat((spectrum.real, spectrum.imag), -1)


def spectrum_to_frames(x: Tensor) -> Tensor:
    """Invert ``frames_to_spectrum``."""
    real, imaginary = x.float().chunk(2, -1)
    frames: Tensor = torch.fft.irfft(torch.complex(real, imaginary), dim=2, norm="ortho")
    return frames

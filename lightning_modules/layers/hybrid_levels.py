"""Levels of hybrid U-Nets, which work on waveforms and, along frequency, on spectra."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lightning_modules.layers.checkpointing import checkpointed

KERNEL_SIZE, STRIDE = 8, 4
_PADDING = (KERNEL_SIZE - STRIDE) // 2
# Kernel size of the decoder's GLU convolution.
_CONTEXT = 3
# Of the residual branches: layers, hidden channels as a fraction, kernel size, initial scale.
_LAYERS, _COMPRESSION, _KERNEL, _SCALE = 2, 8, 3, 1e-3
# Position of the norm after the 1x1 convolution.
_GATE = 4
# Reference standard deviation of the rescaled initial weights.
_REFERENCE = 0.1


class LayerScale(nn.Module):
    """Residual connection ``x + s f(x)``, with gains s per channel that are initially small.

    Args:
        channels: C.
        initial: Initial gain.
        last: Channels are on the last axis, not on axis 1.
    """

    def __init__(self, channels: int, initial: float, last: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), initial))
        self.last = last

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add the scaled branch to signals (B, C, T), or (..., C)."""
        return torch.addcmul(x, branch, self.scale if self.last else self.scale[:, None])


class _WholeNorm(nn.GroupNorm):
    """Group norm with one group, which also takes signals of a single number."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        # `nn.functional.group_norm` refuses a single number, the hidden layer of one short row.
        return torch.group_norm(x, 1, self.weight, self.bias, self.eps)


class DilatedResidual(nn.Module):
    """Layers ``x + s f(x)``; f has a dilated and a 1x1 convolution with norms, GELU and GLU.

    What follows the 1x1 convolution costs little and is always computed again in the backward pass.

    Args:
        channels: C, at least 8; hidden layers have an eighth of them.
        checkpoint_activations: Recompute all activations in the backward pass.
    """

    def __init__(self, channels: int, checkpoint_activations: bool = False) -> None:
        super().__init__()
        hidden = channels // _COMPRESSION
        self.checkpoint_activations = checkpoint_activations
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(channels, hidden, _KERNEL, dilation=2**layer, padding=2**layer),
                _WholeNorm(hidden),
                nn.GELU(),
                nn.Conv1d(hidden, 2 * channels, 1),
                _WholeNorm(2 * channels),
                nn.GLU(1),
                LayerScale(channels, _SCALE),
            )
            for layer in range(_LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map signals (B, C, T), or those of the rows of images (B, C, F, T), to that shape."""
        if x.ndim == 3:
            return self._signals(x)
        rows = self._signals(x.transpose(1, 2).flatten(0, 1))  # (B F, C, T)
        images: Tensor = rows.unflatten(0, (x.shape[0], -1))
        return images.transpose(1, 2)

    def _signals(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.Sequential)
            if self.checkpoint_activations and self.training:
                x = checkpointed(layer, partial(_whole, layer), x)
            elif self.training:
                x = checkpointed(layer, partial(_gated, layer), x, layer[:_GATE](x))
            else:
                x = _whole(layer, x)
        return x


def _whole(layer: nn.Sequential, x: Tensor) -> Tensor:
    """Run a layer of a ``DilatedResidual``."""
    return _gated(layer, x, layer[:_GATE](x))


def _gated(layer: nn.Sequential, x: Tensor, hidden: Tensor) -> Tensor:
    """Run its norm and GLU, and add the result to its input x."""
    added: Tensor = layer[-1](x, layer[_GATE:-1](hidden))
    return added


class EncoderLevel(nn.Module):
    """Strided convolution, GELU, residual branch, 1x1 convolution and GLU.

    Args:
        inputs: Channels of the input.
        channels: Channels of the output.
        spectra: Work on spectra (B, C, F, T), strided along F; else on signals (B, C, T).
        checkpoint_activations: Recompute activations of the residual branch.
    """

    def __init__(
        self, inputs: int, channels: int, spectra: bool, checkpoint_activations: bool
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        self.rewrite: nn.Module
        if spectra:
            self.conv = nn.Conv2d(inputs, channels, (KERNEL_SIZE, 1), (STRIDE, 1), (_PADDING, 0))
            self.rewrite = nn.Conv2d(channels, 2 * channels, 1)
        else:
            self.conv = nn.Conv1d(inputs, channels, KERNEL_SIZE, STRIDE, _PADDING)
            self.rewrite = nn.Conv1d(channels, 2 * channels, 1)
        self.dconv = DilatedResidual(channels, checkpoint_activations)
        self.spectra = spectra

    def forward(self, x: Tensor) -> Tensor:
        """Divide the length F of spectra, or T of signals, by four; T is padded for that."""
        if not self.spectra:
            x = nn.functional.pad(x, (0, -x.shape[-1] % STRIDE))
        x = self.dconv(nn.functional.gelu(self.conv(x)))
        return nn.functional.glu(self.rewrite(x), 1)


class DecoderLevel(nn.Module):
    """Convolution and GLU, residual branch, transposed convolution and, except last, GELU.

    Args:
        channels: Channels of the input.
        outputs: Channels of the output.
        spectra: Work on spectra; see ``EncoderLevel``.
        last: Leave out the GELU.
        checkpoint_activations: Recompute activations of the residual branch.
    """

    def __init__(
        self, channels: int, outputs: int, spectra: bool, last: bool, checkpoint_activations: bool
    ) -> None:
        super().__init__()
        self.rewrite: nn.Module
        self.conv_tr: nn.Module
        context = (_CONTEXT, 1, _CONTEXT // 2)
        if spectra:
            self.rewrite = nn.Conv2d(channels, 2 * channels, *context)
            self.conv_tr = nn.ConvTranspose2d(
                channels, outputs, (KERNEL_SIZE, 1), (STRIDE, 1), (_PADDING, 0)
            )
        else:
            self.rewrite = nn.Conv1d(channels, 2 * channels, *context)
            self.conv_tr = nn.ConvTranspose1d(channels, outputs, KERNEL_SIZE, STRIDE, _PADDING)
        self.dconv = DilatedResidual(channels, checkpoint_activations)
        self.spectra, self.last = spectra, last

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """Multiply F or T by four after adding the skip; cut T of signals to ``length``."""
        x = self.dconv(nn.functional.glu(self.rewrite(x + skip), 1))
        x = self.conv_tr(x)
        if not self.spectra:
            x = x[..., :length]
        return x if self.last else nn.functional.gelu(x)


class FrequencyEmbedding(nn.Module):
    """A learned vector per bin; neighbouring bins have similar initial vectors.

    Stored weights are a tenth of the vectors, which makes steps of Adam ten times as large.
    """

    _STORED = 10

    def __init__(self, bins: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(bins, channels)
        walk = self.embedding.weight.detach().cumsum(0)
        numbers = torch.arange(1, bins + 1)[:, None]
        self.embedding.weight.data = walk / numbers.sqrt() / self._STORED

    def forward(self, spectra: Tensor) -> Tensor:
        """Add the vectors, weighted by 0.2, to spectra (B, C, F, T)."""
        return spectra + (0.2 * self._STORED) * self.embedding.weight.T[..., None]


def rescale_convolutions(network: nn.Module) -> None:
    """Change the initial deviation s of each convolution's weights to ``sqrt(0.1 s)``."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
            factor = (_REFERENCE / module.weight.detach().std()).sqrt()
            for parameter in module.parameters():
                parameter.data.mul_(factor)

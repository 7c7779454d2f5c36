"""Transformer layers with rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.layers.bands import rms_normalised
from lightning_modules.layers.checkpointing import checkpointed


class RMSNorm(nn.Module):
    """Division by the root mean square, then a gain per feature; see ``rms_normalised``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (..., D)."""
        return rms_normalised(features) * self.gain


class RotaryEmbedding(nn.Module):
    """Rotates pairs of features by angles that grow with the position.

    Su, Lu, Pan, Murtadha, Wen and Liu 2021, "RoFormer: enhanced transformer with rotary position
    embedding", equation 15: pairs are neighbouring features (0, 1), (2, 3), ...

    Args:
        features: Features of a head, d, even.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        frequencies = 10000.0 ** (-torch.arange(0, features, 2) / features)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the angles of ``length`` positions, (length, d / 2) each."""
        positions = torch.arange(length, device=self.frequencies.device)
        angles = positions[:, None] * self.frequencies.float()
        return angles.cos(), angles.sin()


def rotate(features: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs of features (..., N, d) in float32 by angles (N, d / 2)."""
    even, odd = features.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = (even * cosines - odd * sines, odd * cosines + even * sines)
    return torch.stack(rotated, -1).flatten(-2).to(features.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and a gate per head.

    ``x -> W_o [g_h softmax(q k' / sqrt(d)) v]_h`` with ``g = sigmoid(W_g x + b)``, after an
    RMSNorm. The gates are an addition of lucidrains' code to the papers.

    Args:
        features: D.
        heads: Number of heads.
        head_features: Features of a head, d.
        dropout: Probability, on attention weights and output.
    """

    def __init__(self, features: int, heads: int, head_features: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = RMSNorm(features)
        self.qkv = nn.Linear(features, 3 * heads * head_features, bias=False)
        self.gates = nn.Linear(features, heads)
        self.output = nn.Linear(heads * head_features, features, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attend along axis 1 of features (R, N, D), with angles (N, d / 2)."""
        x = self.norm(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cosines, sines), rotate(k, cosines, sines)
        v = v.contiguous()  # a view would keep the memory of all three until the backward pass
        dropout = self.dropout if self.training else 0.0
        # torch selects the kernel; flash and memory-efficient ones never store N x N weights.
        heads = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        gates = self.gates(x).sigmoid()
        # The backward pass multiplies once more, instead of keeping the products.
        return checkpointed(self, self._gated_output, heads, gates, random=dropout > 0)

    def _gated_output(self, heads: Tensor, gates: Tensor) -> Tensor:
        """Map heads (R, H, N, d) and gates (R, N, H) to features (R, N, D)."""
        gated = (heads.transpose(1, 2) * gates[..., None]).flatten(2)
        return nn.functional.dropout(self.output(gated), self.dropout, self.training)


class FeedForward(nn.Module):
    """RMSNorm, linear layer, GELU, linear layer, with dropout.

    Args:
        features: D.
        hidden: Width of the hidden layer.
        dropout: Probability.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.dropout = RMSNorm(features), nn.Dropout(dropout)
        self.up, self.down = nn.Linear(features, hidden), nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (..., D) to the same shape."""
        random = self.training and self.dropout.p > 0
        # The backward pass computes GELU once more, instead of keeping its output.
        return checkpointed(self, self._activated_down, self.up(self.norm(x)), random=random)

    def _activated_down(self, hidden: Tensor) -> Tensor:
        mapped: Tensor = self.dropout(self.down(self.dropout(nn.functional.gelu(hidden))))
        return mapped


class Transformer(nn.Module):
    """Layers of attention and feed-forward with residual connections, along axis 1.

    Args:
        features: D.
        layers: Number of layers.
        heads: Heads of attention.
        head_features: Features of a head.
        expansion: Hidden width of the feed-forward layers, as a multiple of D.
        attention_dropout: Probability in attention.
        feedforward_dropout: Probability in the feed-forward layers.
        normalised: End with an RMSNorm.
    """

    def __init__(
        self,
        features: int,
        layers: int = 1,
        heads: int = 8,
        head_features: int = 64,
        expansion: int = 4,
        attention_dropout: float = 0.0,
        feedforward_dropout: float = 0.0,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.positions = RotaryEmbedding(head_features)
        self.attentions = nn.ModuleList(
            Attention(features, heads, head_features, attention_dropout) for _ in range(layers)
        )
        self.feedforwards = nn.ModuleList(
            FeedForward(features, expansion * features, feedforward_dropout) for _ in range(layers)
        )
        self.norm = RMSNorm(features) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map features (R, N, D) to the same shape."""
        angles = self.positions(x.shape[1])
        for attention, feedforward in zip(self.attentions, self.feedforwards, strict=True):
            x = x + attention(x, *angles)
            x = x + feedforward(x)
        normed: Tensor = self.norm(x)
        return normed

"""Cross-domain transformer: two sequences that attend to themselves and to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_modules.layers.checkpointing import checkpointed
from lightning_modules.layers.hybrid_levels import LayerScale

_SCALE = 1e-4  # initial, of the residual branches
_LONGEST_PERIOD = 10_000.0


class MultiHeadAttention(nn.Module):
    """Multi-head attention with biases; parameters as in ``nn.MultiheadAttention``.

    Args:
        features: D.
        heads: Number of heads.
        dropout: Probability, on the attention weights.
    """

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * features, features))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * features))
        self.out_proj = nn.Linear(features, features)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, others: Tensor | None = None) -> Tensor:
        """Let a sequence (B, N, D) attend to itself, or to another one (B, M, D)."""
        if others is None:
            projected = nn.functional.linear(queries, self.in_proj_weight, self.in_proj_bias)
            q, k, v = self._heads(projected, 3)
        else:
            features = queries.shape[-1]
            sizes = (features, 2 * features)
            weights, biases = self.in_proj_weight.split(sizes), self.in_proj_bias.split(sizes)
            (q,) = self._heads(nn.functional.linear(queries, weights[0], biases[0]), 1)
            k, v = self._heads(nn.functional.linear(others, weights[1], biases[1]), 2)
        dropout = self.dropout if self.training else 0.0
        heads = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        mapped: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return mapped

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, N, parts D) into ``parts`` tensors (B, H, N, d)."""
        heads: Tensor = projected.unflatten(-1, (parts, self.heads, -1))
        return heads.permute(2, 0, 3, 1, 4).unbind()


class SequenceNorm(nn.Module):
    """Group norm with one group of sequences (B, N, D): over steps and features together."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(features)),
            nn.Parameter(torch.zeros(features)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, N, D), in float32."""
        # With few and long sequences, faster than `group_norm`, which would need (B, D, N).
        variance, mean = torch.var_mean(x.float(), (1, 2), correction=0, keepdim=True)
        gain = (variance + 1e-5).rsqrt() * self.weight
        return torch.addcmul(self.bias - mean * gain, x, gain)


class _Layer(nn.Module):
    """Attention and feed-forward network, with norms before them, scales and a norm at the end."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.gamma_1, self.gamma_2 = (LayerScale(features, _SCALE, last=True) for _ in range(2))
        self.norm_out = SequenceNorm(features)
        self.dropout = nn.Dropout(dropout)

    def add(self, x: Tensor, attended: Tensor, norm: nn.Module) -> Tensor:
        """Add to x (B, N, D) what was attended to, and then the feed-forward network's output."""
        x = self.gamma_1(x, self.dropout(attended))
        hidden = self.dropout(nn.functional.gelu(self.linear1(norm(x))))
        x = self.gamma_2(x, self.dropout(self.linear2(hidden)))
        normed: Tensor = self.norm_out(x)
        return normed


class SelfLayer(_Layer):
    """Layer in which a sequence attends to itself."""

    def __init__(self, features: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(features, hidden, dropout)
        self.self_attn = MultiHeadAttention(features, heads, dropout)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape; the other sequence is not used."""
        return self.add(x, self.self_attn(self.norm1(x)), self.norm2)


class CrossLayer(_Layer):
    """Layer in which a sequence attends to another one."""

    def __init__(self, features: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(features, hidden, dropout)
        self.cross_attn = MultiHeadAttention(features, heads, dropout)
        self.norm3 = nn.LayerNorm(features)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape, with another sequence (B, M, D)."""
        return self.add(x, self.cross_attn(self.norm1(x), self.norm2(other)), self.norm3)


class CrossTransformer(nn.Module):
    """Layers of self-attention and, every second one, of attention to the other sequence.

    Args:
        features: D, divisible by four and by ``heads``.
        layers: Number of layers of each sequence.
        heads: Heads of attention.
        expansion: Hidden width of the feed-forward networks, as a multiple of D.
        dropout: Probability.
        checkpoint_activations: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        features: int,
        layers: int,
        heads: int,
        expansion: int,
        dropout: float,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.norm_in, self.norm_in_t = nn.LayerNorm(features), nn.LayerNorm(features)
        kinds = [CrossLayer if number % 2 else SelfLayer for number in range(layers)]
        self.layers, self.layers_t = (
            nn.ModuleList(kind(features, heads, expansion * features, dropout) for kind in kinds)
            for _ in range(2)
        )
        self.checkpoint_activations = checkpoint_activations

    def forward(self, spectra: Tensor, signals: Tensor) -> tuple[Tensor, Tensor]:
        """Map features of spectra (B, D, F, N) and signals (B, D, T) to the same shapes."""
        _, features, bins, frames = spectra.shape
        positions = image_positions(features, bins, frames, spectra.device)
        x = self.norm_in(spectra.permute(0, 3, 2, 1).flatten(1, 2)) + positions  # (B, N F, D)
        positions = sequence_positions(features, signals.shape[-1], signals.device)
        y = self.norm_in_t(signals.transpose(1, 2)) + positions  # (B, T, D)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, y = self._layer(layer, x, y), self._layer(layer_t, y, x)
        return x.unflatten(1, (frames, bins)).permute(0, 3, 2, 1), y.transpose(1, 2)

    def _layer(self, layer: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        mapped: Tensor
        if self.checkpoint_activations and self.training:
            mapped = checkpointed(layer, layer, x, other, random=True)
        else:
            mapped = layer(x, other)
        return mapped


def sequence_positions(features: int, steps: int, device: torch.device) -> Tensor:
    """Return cosines, then sines, of positions, (steps, features)."""
    half = features // 2
    exponents = torch.arange(half, device=device) / max(1, half - 1)
    phases = torch.arange(steps, device=device)[:, None] / _LONGEST_PERIOD**exponents
    return torch.cat([phases.cos(), phases.sin()], -1)


def image_positions(features: int, bins: int, frames: int, device: torch.device) -> Tensor:
    """Return sines and cosines by turns, of frames and then of bins, (frames bins, features)."""
    half = features // 2
    exponents = torch.arange(0, half, 2, device=device) * (-math.log(_LONGEST_PERIOD) / half)

    def waves(steps: int) -> Tensor:
        phases = torch.arange(steps, device=device)[:, None] * exponents.exp()
        return torch.stack([phases.sin(), phases.cos()], -1).flatten(1)  # (steps, half)

    by_frame = waves(frames)[:, None].expand(-1, bins, -1)
    by_bin = waves(bins).expand(frames, -1, -1)
    return torch.cat([by_frame, by_bin], -1).flatten(0, 1)

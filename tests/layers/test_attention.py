"""Rotary attention against its formulas."""

from __future__ import annotations

import math

import torch

from lightning_modules.layers.attention import (
    Attention,
    RotaryEmbedding,
    rotate,
)


def test_rotation_equals_its_formula() -> None:
    """Pair i at position n is turned by n 10000^(-2i/d)."""
    cosines, sines = RotaryEmbedding(6)(5)
    features = torch.randn(2, 5, 6)
    rotated = rotate(features, cosines, sines)
    for position in range(5):
        for pair in range(3):
            angle = position * 10000 ** (-2 * pair / 6)
            turn = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            )
            part = slice(2 * pair, 2 * pair + 2)
            expected = features[:, position, part] @ turn.T
            assert torch.allclose(rotated[:, position, part], expected, atol=1e-6)


def test_scores_depend_on_the_distance_alone() -> None:
    cosines, sines = RotaryEmbedding(8)(20)
    query, key = torch.randn(8), torch.randn(8)
    scores = (
        rotate(query.expand(20, 8), cosines, sines) @ rotate(key.expand(20, 8), cosines, sines).T
    )
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)


def test_attention_equals_its_formula() -> None:
    attention = Attention(10, heads=3, head_features=4, dropout=0.0)
    x = torch.randn(2, 5, 10)
    cosines, sines = RotaryEmbedding(4)(5)
    normed = x / x.square().mean(-1, keepdim=True).sqrt() * attention.norm.gain
    q, k, v = (normed @ attention.qkv.weight.T).view(2, 5, 3, 3, 4).unbind(2)
    heads = []
    for head in range(3):
        queries = rotate(q[:, :, head], cosines, sines)
        keys = rotate(k[:, :, head], cosines, sines)
        weights = (queries @ keys.transpose(1, 2) / 2).softmax(-1)
        gate = (normed @ attention.gates.weight[head] + attention.gates.bias[head]).sigmoid()
        heads.append(gate[..., None] * (weights @ v[:, :, head]))
    expected = torch.cat(heads, -1) @ attention.output.weight.T
    assert torch.allclose(attention(x, cosines, sines), expected, atol=1e-5)

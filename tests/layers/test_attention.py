"""Rotary attention against its formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_modules.layers.attention import (
    Attention,
    AxialBlock,
    RotaryEmbedding,
    Transformer,
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


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_gradients_are_equal(dropout: float) -> None:
    sizes: dict[str, Any] = {"heads": 2, "head_features": 4, "attention_dropout": dropout}
    time, bands = (Transformer(8, feedforward_dropout=dropout, **sizes) for _ in range(2))
    block = AxialBlock(time, bands)
    x = torch.randn(2, 3, 5, 8)
    gradients = []
    for block.checkpoint_activations in (False, True):
        block.zero_grad()
        torch.manual_seed(1)
        block(x).square().mean().backward()
        gradients.append([p.grad for p in block.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert recomputed is not None
        assert torch.allclose(plain, recomputed)


def test_each_axis_is_mixed_by_its_transformer() -> None:
    """A change at one frame and band reaches all others through both transformers."""
    time, bands = (Transformer(8, heads=2, head_features=4) for _ in range(2))
    block = AxialBlock(time, bands)
    x = torch.randn(1, 3, 5, 8)
    changed = x.clone()
    changed[0, 1, 2] += 1
    difference = (block.time(x.flatten(0, 1)) - block.time(changed.flatten(0, 1))).abs().sum(-1)
    assert difference[1].all()
    assert not difference[[0, 2]].any()
    assert (block(x) - block(changed)).abs().sum(-1).all()

"""Networks along one axis after the other: which axis each mixes, and checkpointed gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules.layers.attention import Transformer
from lightning_modules.layers.axial import AxialBlock, AxialBlocks
from lightning_modules.layers.blstm import ResidualBLSTM

KINDS: list[Callable[[], nn.Module]] = [
    lambda: Transformer(8, heads=2, head_features=4),
    lambda: Transformer(
        8, heads=2, head_features=4, attention_dropout=0.3, feedforward_dropout=0.3
    ),
    lambda: ResidualBLSTM(8, 5),
]


@pytest.mark.parametrize("network", KINDS)
def test_checkpointed_gradients_are_equal(network: Callable[[], nn.Module]) -> None:
    block = AxialBlock(network(), network())
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


@pytest.mark.parametrize("network", KINDS)
def test_each_axis_is_mixed_by_its_network(network: Callable[[], nn.Module]) -> None:
    """A change at one frame and band reaches all others through both networks."""
    block = AxialBlock(network(), network()).eval()
    x = torch.randn(1, 3, 5, 8)
    changed = x.clone()
    changed[0, 1, 2] += torch.randn(8)
    difference = (block.time(x.flatten(0, 1)) - block.time(changed.flatten(0, 1))).abs().sum(-1)
    assert difference[1].all()
    assert not difference[[0, 2]].any()
    assert (block(x) - block(changed)).abs().sum(-1).all()


def test_heads_share_the_weights_of_axial_blocks() -> None:
    """Each head equals the block on its channels: images (B, C, N, F), blocks (B, F, N, C)."""
    block = AxialBlock(ResidualBLSTM(4, 3), ResidualBLSTM(4, 3))
    x = torch.randn(2, 8, 5, 3)
    heads = [block(part.permute(0, 3, 2, 1)).permute(0, 3, 2, 1) for part in x.chunk(2, 1)]
    assert torch.allclose(AxialBlocks(block, heads=2)(x), torch.cat(heads, 1), atol=1e-6)

"""The residual BLSTM against a loop over sequences."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.layers.blstm import ResidualBLSTM


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_residual_blstm_equals_its_formula(groups: int) -> None:
    layer = ResidualBLSTM(6, 5, groups)
    for parameter in layer.norm.parameters():
        parameter.data.normal_()
    x = torch.randn(3, 7, 6)
    found = layer(x)
    for sequence, output in zip(x, found, strict=True):
        parts = sequence.unflatten(1, (groups, -1))  # (N, groups, D / groups)
        deviation = (parts.var((0, 2), correction=0, keepdim=True) + 1e-5).sqrt()
        normed = ((parts - parts.mean((0, 2), keepdim=True)) / deviation).flatten(1)
        normed = normed * layer.norm.weight + layer.norm.bias
        expected = sequence + layer.linear(layer.lstm(normed)[0])
        assert torch.allclose(output, expected, atol=1e-5)

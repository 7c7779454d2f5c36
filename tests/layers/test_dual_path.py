"""Dual-path layers against loops over bins and frames, and the transform between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_modules.layers.blstm import BLSTM
from lightning_modules.layers.dual_path import (
    DualPathLayer,
    frames_to_spectrum,
    spectrum_to_frames,
)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_layer_equals_its_formula(checkpointed: bool) -> None:
    torch.manual_seed(0)
    layer = DualPathLayer(6, lambda features: BLSTM(features, 5), checkpointed)
    for parameter in layer.norms.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 4, 3, 6)  # (B, F, N, D)
    for one, output in zip(x, layer(x), strict=True):
        y = one
        for axis, norm, network in zip(
            (0, 1), layer.norms, (layer.bins, layer.frames), strict=True
        ):
            assert isinstance(norm, nn.GroupNorm)
            normed = (y - y.mean()) / (y.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
            rows = [network(row[None])[0] for row in normed.unbind(1 - axis)]
            y = y + torch.stack(rows, 1 - axis)
        assert torch.allclose(output, y, atol=1e-5)


def test_transform_is_the_spectrum_along_frames_and_is_inverted() -> None:
    x = torch.randn(2, 3, 8, 5)
    spectrum = frames_to_spectrum(x)
    assert spectrum.shape == (2, 3, 5, 10)
    expected = torch.fft.fft(x[1, 2, :, 4])[:5] / 8**0.5
    assert torch.allclose(spectrum[1, 2, :, 4], expected.real, atol=1e-6)
    assert torch.allclose(spectrum[1, 2, :, 9], expected.imag, atol=1e-6)
    assert torch.allclose(spectrum_to_frames(spectrum), x, atol=1e-6)

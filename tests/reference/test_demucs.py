"""Demucs against the package ``demucs``, on the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from demucs import demucs as package
from torch import Tensor, nn

from lightning_modules.architectures.demucs import Demucs
from lightning_modules.interop.demucs import from_package

LATER = re.compile(r"((?:en|de)coder\.\d+)\.3\.(weight|bias)")
SOURCES = ["drums", "bass", "other", "vocals"]


def package_network(resample: bool, depth: int = 6, **arguments: Any) -> nn.Module:
    """The package's network with the settings of its first two versions."""
    torch.manual_seed(0)
    network: nn.Module = package.Demucs(
        SOURCES,
        channels=8,
        depth=depth,
        lstm_layers=2,
        gelu=False,
        norm_starts=999,
        dconv_mode=0,
        resample=resample,
        **arguments,
    )
    return network.eval()


def differences(ours: Tensor, theirs: Tensor) -> Tensor:
    """Largest difference at each sample, relative to the largest sample."""
    largest: Tensor = (ours - theirs).abs().amax((0, 1, 2)) / theirs.abs().max()
    return largest


def noise() -> Tensor:
    """Noise from a fixed seed."""
    return torch.randn(2, 2, 60_001, generator=torch.Generator().manual_seed(1))


def pair(network: nn.Module, folder: Path, **arguments: Any) -> tuple[Demucs, Tensor, Tensor]:
    """Our model with the package's weights, and both models' estimates of the same noise."""
    torch.save(network.state_dict(), folder / "weights.th")
    model = from_package(folder / "weights.th", **arguments)
    assert isinstance(model, Demucs)
    with torch.no_grad():
        theirs = network(noise())[:, [3, 0, 1, 2]]  # vocals first
        return model, model(noise()), theirs


@pytest.mark.parametrize("resample", [False, True])
def test_padded_networks_agree(resample: bool, tmp_path: Path) -> None:
    model, ours, theirs = pair(package_network(resample), tmp_path, resample=resample)
    assert model.network.padded
    assert differences(ours, theirs).max() < 1e-5


@pytest.mark.parametrize("resample", [False, True])
def test_unpadded_networks_agree_in_the_interior(resample: bool, tmp_path: Path) -> None:
    """The padding differs at the edges, from where the LSTM carries a small difference inside."""
    model, _, theirs = pair(package_network(resample), tmp_path, resample=resample)
    unpadded = Demucs(model.sources, channels=8, resample=resample).eval()
    unpadded.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours = unpadded(noise())
    found = differences(ours, theirs)
    assert found[8000:-8000].max() < 1e-4
    assert found[:1000].max() > 1e-4


def test_networks_agree_in_training(tmp_path: Path) -> None:
    theirs = package_network(True, depth=3)
    model, _, _ = pair(theirs, tmp_path, resample=True)
    for network, heads in ((model, [0, 1, 2, 3]), (theirs, [3, 0, 1, 2])):
        network.train()(noise())[:, heads].square().mean((0, 2, 3)).cumsum(0).sum().backward()
    ours = model.network.state_dict(keep_vars=True)
    checked = 0
    for name, weights in theirs.named_parameters():
        mine = ours[LATER.sub(r"\1.2.\2", name)]
        assert mine.grad is not None
        assert weights.grad is not None
        if not name.startswith("decoder.2.3."):  # its outputs are in a different order
            assert torch.allclose(mine.grad, weights.grad, rtol=1e-3, atol=1e-6), name
            checked += 1
    assert checked == len(ours) - 2

"""Hybrid Demucs against the package ``msst`` (Music-Source-Separation-Training), same weights."""

from __future__ import annotations

from pathlib import Path

import torch
from msst.utils import settings

from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from lightning_modules.interop.demucs import from_package

CONFIG = """
model: hdemucs
hdemucs: {channels: 8}
training: {instruments: [drums, bass, other, vocals], channels: 2, samplerate: 44100, segment: 2}
"""


def test_model_of_a_config_agrees(tmp_path: Path) -> None:
    """A state dict of the model that the package builds from a config, sources in our order."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    theirs, _ = settings.get_model_from_config("htdemucs", str(tmp_path / "config.yaml"))
    torch.save(theirs.eval().state_dict(), tmp_path / "hdemucs.ckpt")
    model = from_package(tmp_path / "hdemucs.ckpt")
    assert isinstance(model, HybridDemucs)
    mixture = torch.randn(2, 2, 50_001)
    with torch.no_grad():
        assert torch.equal(model(mixture), theirs(mixture)[:, [3, 0, 1, 2]])

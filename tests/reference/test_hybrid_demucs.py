"""Hybrid Demucs against the package ``demucs``, on the same weights."""

from __future__ import annotations

from pathlib import Path

import torch
from demucs import hdemucs as package

from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from lightning_modules.interop.demucs import from_package


def test_networks_agree(tmp_path: Path) -> None:
    """Bit for bit, from the package's file, with sources in our order."""
    torch.manual_seed(0)
    names = ["drums", "bass", "other", "vocals"]
    theirs = package.HDemucs(names, channels=8, dconv_init=0.1, samplerate=44100).eval()
    arguments, settings = theirs._init_args_kwargs
    contents = {
        "klass": type(theirs),
        "args": arguments,
        "kwargs": {**settings, "sources": names},
        "state": theirs.state_dict(),
    }
    torch.save(contents, tmp_path / "hdemucs.th")
    model = from_package(tmp_path / "hdemucs.th")
    assert isinstance(model, HybridDemucs)
    mixture = torch.randn(2, 2, 50_001)
    with torch.no_grad():
        assert torch.equal(model(mixture), theirs(mixture)[:, [3, 0, 1, 2]])

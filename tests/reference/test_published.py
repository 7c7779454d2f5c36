"""Models by name, with files that the package ``demucs`` wrote, against the package."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.htdemucs import HTDemucs as Package
from demucs.states import serialize_model
from omegaconf import OmegaConf

from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.published import publishing

SOURCES = ["drums", "bass", "other", "vocals"]
SMALL = {"channels": 8, "t_layers": 1, "t_heads": 2, "dconv_mode": 3, "nfft": 512, "depth": 3}


def package(seed: int, folder: Path) -> Package:
    """Write a small model as the package publishes it, in half precision."""
    torch.manual_seed(seed)
    model = Package(SOURCES, segment=Fraction(1, 5), **SMALL)
    model = model.half().float().eval()  # rounds the weights
    contents = serialize_model(model, OmegaConf.create({}), half=True)
    torch.save(contents, folder / f"{seed}-00112233.th")
    return model


@pytest.mark.slow
def test_a_bag_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [package(seed, tmp_path) for seed in range(4)]
    with publishing(tmp_path, monkeypatch) as publisher:
        publisher.publish("htdemucs_ft", *sorted(tmp_path.glob("*.th")))
        separator = load_separator("htdemucs_ft")
    mixture = 0.1 * torch.randn(2, 12_000, generator=torch.Generator().manual_seed(1))
    mean, deviation = mixture.mean(), mixture.mean(0).std() + 1e-8
    bag = BagOfModels(models, torch.eye(4).tolist())
    normalised = ((mixture - mean) / deviation)[None]
    expected = apply_model(bag, normalised, shifts=0, overlap=0.25)[0] * deviation + mean
    found = separator.separate(mixture)
    order = [separator.sources.index(name) for name in SOURCES]
    assert (torch.as_tensor(found)[order] - expected).abs().max() < 1e-4 * expected.abs().max()

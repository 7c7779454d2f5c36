"""Small models, songs and uploads for tests of the web app."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile
import torch

from lightning_modules.architectures.unet import UNet
from lightning_modules.webapp.catalogue import Catalogue, ModelEntry
from lightning_modules.webapp.workspace import Workspace

RATE = 44100
SOURCES = ["vocals", "other"]


def tiny(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(SOURCES, channels=[4, 8], segment_seconds=0.5, mask="ratio").eval()


def catalogue(**models: UNet) -> Catalogue:
    """Models that are loaded."""

    def entry(name: str, model: UNet) -> ModelEntry:
        return ModelEntry(lambda progress: model, name)

    return Catalogue({name: entry(name, model) for name, model in models.items()})


def write_song(path: Path, seconds: float = 1.7, channels: int = 2, level: float = 0.1) -> Path:
    """Write noise of increasing level, so that all parts of the song differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = round(seconds * RATE)
    audio = np.random.default_rng(0).normal(0, level, (samples, channels))
    soundfile.write(path, audio * np.linspace(0.1, 1, samples)[:, None], RATE)
    return path


def upload(workspace: Workspace, song: Path, folder: str = "hash") -> Path:
    """Copy a file to the folder of uploads."""
    target = workspace.uploads / folder / song.name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(song, target)
    return target


def timeless(path: Path) -> bytes:
    """Content of a float WAV without the time of writing in libsndfile's PEAK chunk."""
    content = path.read_bytes()
    stamp = content.index(b"PEAK") + 12  # name, size, version
    return content[:stamp] + content[stamp + 4 :]

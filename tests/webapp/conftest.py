"""A workspace, small models and songs to put into it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_modules.architectures.unet import UNet
from lightning_modules.webapp.workspace import Limits, Workspace

RATE = 44100
SOURCES = ["vocals", "other"]


def tiny(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(SOURCES, channels=[4, 8], segment_seconds=0.5, mask="ratio").eval()


def write_song(path: Path, seconds: float = 1.7, channels: int = 2, level: float = 0.1) -> Path:
    """Noise that swells, so that no two moments look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = round(seconds * RATE)
    audio = np.random.default_rng(0).normal(0, level, (samples, channels))
    soundfile.write(path, audio * np.linspace(0.1, 1, samples)[:, None], RATE)
    return path


def upload(workspace: Workspace, song: Path, folder: str = "hash") -> Path:
    """Put a file where the page's uploads arrive."""
    target = workspace.uploads / folder / song.name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(song, target)
    return target


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace(Limits(minutes=0.1, megabytes=2, keep_minutes=30)) as workspace:
        yield workspace


def timeless(path: Path) -> bytes:
    """A float WAV without the time of writing, which libsndfile puts into its chunk of peaks."""
    content = path.read_bytes()
    stamp = content.index(b"PEAK") + 12  # name, size, version
    return content[:stamp] + content[stamp + 4 :]

"""What tests of all parts share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_modules.runtime import signals

# No test talks to W&B's service.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks start with the same weights, whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own data and runs have no say in the tests."""
    signals.restore_handlers()  # a test that stopped a run left them as they were
    for name in list(os.environ):
        if name.startswith(("SLURM_", "STEMLAB_RUN_DIR", "MUSDB_PATH", "WANDB_R")):
            monkeypatch.delenv(name)


def write_track(
    folder: Path,
    seconds: float = 3.0,
    sample_rate: int = 44100,
    channels: int = 2,
    seed: int = 0,
    suffix: str = "wav",
) -> None:
    """Write a track whose stems live in bands of their own and whose mixture is their sum."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    stems = {}
    for number, stem in enumerate(STEMS):
        tones = sum(
            np.sin(2 * np.pi * (200 * 3**number + random.uniform(0, 50)) * (harmonic + 1) * time)
            for harmonic in range(3)
        )
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time)
        pan = random.uniform(0.3, 1.0, channels)
        stems[stem] = np.round(0.03 * (tones * swell)[:, None] * pan * 2**15).astype(np.int16)
    stems["mixture"] = np.sum(list(stems.values()), axis=0).astype(np.int16)
    for stem, audio in stems.items():
        soundfile.write(folder / f"{stem}.{suffix}", audio, sample_rate, subtype="PCM_16")


@pytest.fixture(scope="session")
def musdb_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in the layout of MUSDB18-HQ: 4 training, 1 validation, 1 test track."""
    root = tmp_path_factory.mktemp("musdb")
    names = [
        "Actions - One Minute Smile",
        "Band A - One",
        "Band B - Two",
        "Band C - Three",
        "D - 4",
    ]
    for number, name in enumerate(names):
        write_track(root / "train" / name, seconds=3 + 0.3 * number, seed=number)
    write_track(root / "test" / "Test - Song", seed=99)
    return root

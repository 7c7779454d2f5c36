"""Tracks written by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

STEMS = ("vocals", "drums", "bass", "other")


def write_track(
    folder: Path,
    seconds: float = 3.0,
    sample_rate: int = 44100,
    channels: int = 2,
    seed: int = 0,
    suffix: str = "wav",
) -> None:
    """Write a track whose stems have separate frequency bands and whose mixture is their sum."""
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

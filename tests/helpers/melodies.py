"""Melodies that differ by seed and share their beat."""

from __future__ import annotations

import numpy as np

from datamodules.files.audio import Audio

RATE = 8000


def melody(seed: int, seconds: float = 15.0) -> Audio:
    """Four notes a second, on the same beat for all seeds, at ``RATE``, shape (2, T)."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE // 4) / RATE
    notes = [
        sum(
            np.sin(2 * np.pi * hz * time) * np.exp(-8 * time)
            for hz in np.exp(random.uniform(np.log(200), np.log(3000), 3))
        )
        for _ in range(round(4 * seconds))
    ]
    mono = 0.1 * np.concatenate([note - note.mean() for note in notes])
    return np.stack([mono, 0.5 * mono]).astype(np.float32)

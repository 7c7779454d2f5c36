"""Signals to score, and scores without signals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_modules.evaluation.scores import METRICS, TrackScores

Signals = NDArray[np.float64]
RATE = 2000  # low, so that museval takes milliseconds
SOURCES = ("vocals", "drums", "bass")


def signals(seconds: float = 3.0, channels: int = 1, seed: int = 0) -> tuple[Signals, Signals]:
    """References and estimates of three sources, shape (S, C, T)."""
    generator = np.random.default_rng(seed)
    references = generator.standard_normal((3, channels, int(seconds * RATE))) / 8
    noise = generator.standard_normal(references.shape) / 50
    return references, 0.8 * references + 0.1 * references.sum(axis=0) + noise


def frame_scores(scores: TrackScores, *sources: str) -> Signals:
    """SDR, ISR, SIR and SAR of each frame, shape (metrics, sources, frames)."""
    return np.stack([[scores.frames[s][metric] for s in sources] for metric in METRICS])


def constant_scores(name: str, **sdr: list[float]) -> TrackScores:
    """Scores with these values in the frames of each source for every metric."""
    frames = {source: dict.fromkeys(METRICS, np.array(values)) for source, values in sdr.items()}
    return TrackScores(name, frames, dict.fromkeys(sdr, 1.0))

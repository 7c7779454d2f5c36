"""Tracks of noise and estimates of them, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 44100


def write(path: Path, audio: NDArray[np.float64], rate: int = RATE, **kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, **kind)


def make_track(
    root: Path,
    name: str,
    stems: tuple[str, ...] = ("vocals", "drums"),
    seconds: float = 3.0,
    channels: int = 2,
) -> dict[str, NDArray[np.float64]]:
    """Write a track of noises as 16-bit WAV; return its stems, (T, C)."""
    random = np.random.default_rng(len(name))
    shape = (round(seconds * RATE), channels)
    audio = {stem: np.round(random.normal(0, 2000, shape)) / 2**15 for stem in stems}
    for stem, signal in {**audio, "mixture": sum(audio.values())}.items():
        write(root / "test" / name / f"{stem}.wav", np.asarray(signal))
    return audio


def make_estimates(folder: Path, audio: dict[str, NDArray[np.float64]]) -> None:
    mixture = sum(audio.values())
    for stem, signal in audio.items():
        write(folder / f"{stem}.wav", 0.7 * signal + 0.2 * mixture)

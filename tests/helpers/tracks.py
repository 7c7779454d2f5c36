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


def write_noise(path: Path, seed: int, subtype: str = "PCM_16", seconds: float = 0.5) -> None:
    """Write stereo noise at 8 kHz, in parts, because libsndfile's Vorbis encoder needs them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(8000 * seconds), 2))
    with soundfile.SoundFile(path, "w", 8000, 2, subtype=subtype) as file:
        for part in np.array_split(noise, 10):
            file.write(part)


def write_folder(folder: Path, stems: tuple[str, ...] = STEMS, suffix: str = "wav") -> Path:
    """Write a track of half a second without a mixture; each stem is different noise."""
    for number, stem in enumerate(stems):
        subtype = "VORBIS" if suffix == "ogg" else "PCM_16"
        write_noise(folder / f"{stem}.{suffix}", number, subtype)
    return folder


def write_dsd100(root: Path) -> Path:
    """Write a data set in the layout of DSD100: two tracks in Dev, one in Test."""
    for number, (part, name) in enumerate((("Dev", "051 - A"), ("Dev", "052 - B"), ("Test", "C"))):
        write_track(root / "Sources" / part / name, seconds=1, seed=number)
        (root / "Mixtures" / part / name).mkdir(parents=True)
        mixture = root / "Sources" / part / name / "mixture.wav"
        mixture.rename(root / "Mixtures" / part / name / "mixture.wav")
    return root


def touch(root: Path, *files: str) -> Path:
    """Create empty files, for what names alone decide."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def touch_track(folder: Path, files: tuple[str, ...] = STEMS) -> Path:
    """Create empty files for the stems of a track."""
    return touch(folder, *(f"{name}.wav" for name in files))

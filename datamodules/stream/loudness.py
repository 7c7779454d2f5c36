"""Loudness of each second of each stem, measured once and cached.

``crop_starts`` computes the level of a crop from it, assuming a constant level within each second.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datamodules.cache.folder import cache_folder
from datamodules.errors import DataError
from datamodules.files.mapped_wav import MappedFile
from datamodules.files.state import state
from datamodules.files.write_crop import write_crop
from datamodules.parallel import for_each
from datamodules.tracks.index import Track
from datamodules.unfinished import unfinished_folder

Powers = npt.NDArray[np.float32]


def measure_loudness(tracks: Sequence[Track], stems: Sequence[str], progress: bool) -> list[Powers]:
    """Measure the loudness of tracks, or load it from the cache.

    A track is measured again if the size or the modification time of one of its files has changed.
    Files must be mappable (see ``make_mappable``).

    Args:
        tracks: The tracks.
        stems: Names of the stems; a stem that a track does not have is silent.
        progress: Show a progress bar.

    Returns:
        For each track, the mean square of each second over all channels; full scale is 1, the last
        second may be shorter. Shape (stems, seconds).

    Raises:
        DataError: A file is missing, or the cache cannot be written.
    """
    folder = cache_folder() / "loudness"

    def measure_one(track: Track) -> Powers:
        file = folder / f"{_cache_key(track, stems)}.npy"
        try:
            powers: Powers = np.load(file)
        except (OSError, ValueError, EOFError):  # missing or corrupted
            powers = _measure(track, stems)
            _save(file, powers)
        return powers

    return for_each(measure_one, tracks, "measuring loudness", progress)


def _cache_key(track: Track, stems: Sequence[str]) -> str:
    files = [track.stems.get(stem) for stem in stems]
    states = [file and [os.path.abspath(file), *state(file)[:3]] for file in files]
    return hashlib.sha256(json.dumps([track.sample_rate, *states]).encode()).hexdigest()[:24]


def _measure(track: Track, stems: Sequence[str]) -> Powers:
    seconds = -(-track.samples // track.sample_rate)
    powers = np.zeros((len(stems), seconds), np.float32)
    for row, stem in zip(powers, stems, strict=True):
        if stem in track.stems:
            file = MappedFile(track.stems[stem])
            for second in range(seconds):
                row[second] = _power(file, second * track.sample_rate, track.sample_rate)
    return powers


def _save(file: Path, powers: Powers) -> None:
    """Write a table atomically: other processes may write or read it at the same time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(file.parent) as unfinished:
            np.save(unfinished / file.name, powers)
            os.replace(unfinished / file.name, file)
    except OSError as error:
        raise DataError(
            f"{file.parent}: the loudness of the tracks cannot be saved here ({error}); set "
            "STEMLAB_CACHE to a writable folder"
        ) from error


def _power(file: MappedFile, start: int, samples: int) -> float:
    source = file.crop(start, samples)
    waveform = torch.empty(source.shape[1], len(source))
    write_crop(source, waveform)
    values = waveform.numpy().reshape(-1)
    return float(np.einsum("t,t->", values, values)) / max(1, values.size)

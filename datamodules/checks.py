"""Checks that stop a run before training, as findings: `index_tracks` and the doctor share them."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules import audio
from datamodules.audio import DataError
from datamodules.faults import Finding, for_each
from datamodules.pcm_cache import cache_folder, state

if TYPE_CHECKING:
    from datamodules.tracks import Track

_SCAN_BLOCK_SAMPLES = 2**18


def unlike_files(files: Mapping[str, Path], values: Mapping[str, int], unit: str) -> list[Finding]:
    """Compare the files of a track.

    Args:
        files: Stem name -> file.
        values: Stem name -> what its header says.
        unit: ``samples``, ``Hz`` or ``channels``.

    Returns:
        An error for each file that is unlike most.
    """
    if len(set(values.values())) < 2:
        return []
    usual = Counter(values.values()).most_common(1)[0][0]
    like = next(stem for stem, value in values.items() if value == usual)
    return [
        Finding(
            "error",
            {"samples": "unlike-length", "Hz": "unlike-rate"}.get(unit, "unlike-channels"),
            str(files[stem]),
            f"has {value} {unit}, but {files[like].name} has {usual} {unit}",
            "all files of a track must have the same length, sample rate and channels; export "
            "them again from one session",
        )
        for stem, value in values.items()
        if value != usual
    ]


def unlike_rates(tracks: Sequence[Track]) -> list[Finding]:
    """Compare the sample rates of tracks.

    Args:
        tracks: The tracks.

    Returns:
        An error for each track at another rate than most.
    """
    counts = Counter(track.sample_rate for track in tracks)
    usual = counts.most_common(1)[0][0] if counts else 0
    return [
        Finding(
            "error",
            "unlike-rate",
            str(next(iter(track.stems.values())).parent),
            f"sample rate is {track.sample_rate} Hz, but {counts[usual]} of {len(tracks)} tracks "
            f"have {usual} Hz; all must have the same",
            "resample the track or remove it",
        )
        for track in tracks
        if track.sample_rate != usual
    ]


def not_finite(files: Sequence[Path], progress: bool) -> list[Finding]:
    """Look for NaN and infinity in float files, and remember the good ones in the cache.

    Args:
        files: The files.
        progress: Show a progress bar, if it takes more than a second.

    Returns:
        An error for each file that holds one, or that cannot be read to its end.
    """
    memory = cache_folder() / "finite.json"
    known: dict[str, list[int]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text())

    def scan(path: Path) -> Finding | None:
        before = state(path)
        position = 0
        try:
            for block in audio.blocks(path, _SCAN_BLOCK_SAMPLES):
                if not np.isfinite(block).all():
                    sample = position + int(np.argmin(np.isfinite(block).all(0)))
                    return nan_finding(path, sample, audio.inspect(path).sample_rate)
                position += block.shape[-1]
        except DataError as fault:
            return Finding.of(fault, path)
        known[str(path.resolve())] = before
        return None

    new = [path for path in files if known.get(str(path.resolve())) != state(path)]
    if not new:
        return []
    try:
        found = for_each(scan, new, "looking for NaN", progress, workers=4)
    finally:
        # A cache that cannot be written costs a scan at the next start, nothing else.
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
                json.dump(known, file)
            os.replace(file.name, memory)
    return [finding for finding in found if finding]


def nan_finding(path: Path, sample: int, sample_rate: int) -> Finding:
    """Put a NaN or infinity into words.

    Args:
        path: The file.
        sample: The first one.
        sample_rate: Sample rate, Hz.

    Returns:
        The error.
    """
    return Finding(
        "error",
        "nan",
        str(path),
        f"holds NaN or infinity, first at {sample / sample_rate:.3f} s (sample {sample}); finite "
        "samples were expected",
        "export the stem again or remove the track",
    )

"""Checks that stop a run before training, as findings: `index_tracks` and the doctor share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.cache.folder import ledger
from datamodules.files import audio
from datamodules.tracks.findings import Finding

_SCAN_BLOCK_SAMPLES = 2**18
_ALL_FINITE = -1


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


def find_non_finite(files: Sequence[Path], progress: bool) -> list[Finding]:
    """Look for NaN and infinity in float files, once for each state of a file.

    Args:
        files: The files.
        progress: Show a progress bar, if it takes more than a second.

    Returns:
        An error for each file that holds one, or that cannot be read to its end.
    """

    def first_not_finite(path: Path) -> int:
        position = 0
        for block in audio.blocks(path, _SCAN_BLOCK_SAMPLES):
            if not np.isfinite(block).all():
                return position + int(np.argmin(np.isfinite(block).all(0)))
            position += block.shape[-1]
        return _ALL_FINITE

    known, faults = ledger().find_out(
        "find_non_finite", first_not_finite, files, "looking for NaN", progress, workers=4
    )
    return [Finding.of(fault, path) for path, fault in faults.items()] + [
        nan_finding(path, sample, audio.inspect(path).sample_rate)
        for path, (_, sample) in known.items()
        if sample != _ALL_FINITE
    ]


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

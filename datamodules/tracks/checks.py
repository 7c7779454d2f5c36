"""Checks that stop a run before training, shared by `index_tracks` and the doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.cache.folder import file_facts
from datamodules.command_line import program
from datamodules.files import audio
from datamodules.tracks.findings import Finding

_SCAN_BLOCK_SAMPLES = 2**18
_ALL_FINITE = -1
_FINDING_NAMES = {"samples": "unlike-length", "Hz": "unlike-rate", "channels": "unlike-channels"}


def repair_command() -> str:
    """Say which command repairs a data set, for messages."""
    return f"{program('datamodules.convert')} ROOT OUT writes a repaired copy of the data set"


def find_mismatches(
    files: Mapping[str, Path], values: Mapping[str, int], unit: str
) -> list[Finding]:
    """Errors for those files of a track whose value differs from the most common one.

    Args:
        files: Stem name -> file.
        values: Stem name -> value in the file's header.
        unit: ``samples``, ``Hz`` or ``channels``.
    """
    if len(set(values.values())) < 2:
        return []
    most_common = Counter(values.values()).most_common(1)[0][0]
    example = next(stem for stem, value in values.items() if value == most_common)
    return [
        Finding(
            "error",
            _FINDING_NAMES[unit],
            str(files[stem]),
            f"has {value} {unit}, but {files[example].name} has {most_common} {unit}",
            "all files of a track must have the same length, sample rate and channels: "
            f"{repair_command()}, or export them again from one session",
        )
        for stem, value in values.items()
        if value != most_common
    ]


def find_non_finite(files: Sequence[Path], progress: bool) -> list[Finding]:
    """Errors for files with NaN or infinity; results are cached while a file is unchanged."""

    def first_non_finite(path: Path) -> int:
        position = 0
        for block in audio.blocks(path, _SCAN_BLOCK_SAMPLES):
            if not np.isfinite(block).all():
                return position + int(np.argmin(np.isfinite(block).all(0)))
            position += block.shape[-1]
        return _ALL_FINITE

    known, faults = file_facts().look_up(
        "find_non_finite",
        first_non_finite,
        files,
        "looking for NaN",
        progress,
        workers=4,
        is_valid=lambda value: type(value) is int and value >= _ALL_FINITE,
    )
    return [Finding.of(fault, path) for path, fault in faults.items()] + [
        nan_finding(path, sample, audio.inspect_seekable(path).sample_rate)
        for path, (_, sample) in known.items()
        if sample != _ALL_FINITE
    ]


def nan_finding(path: Path, sample: int, sample_rate: int) -> Finding:
    """The error for a file whose first NaN or infinity is sample number ``sample``."""
    return Finding(
        "error",
        "nan",
        str(path),
        f"holds NaN or infinity, first at {sample / sample_rate:.3f} s (sample {sample}); expected "
        "finite samples",
        "export the stem again or remove the track",
    )

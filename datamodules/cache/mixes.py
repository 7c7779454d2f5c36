"""Sums of audio files, such as all drums of a track, which become one file of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from datamodules.files import audio

_BLOCK_SAMPLES = 2**18
_FULL_SCALE = 2**15


class Mix(NamedTuple):
    """A sum of files of the same sample rate.

    Attributes:
        gains: File -> its gain, which is 1 or -1.
        samples: Length of the sum; shorter files are padded with silence at their end.
        channels: Number of channels; mono files are repeated in all of them.
    """

    gains: tuple[tuple[Path, int], ...]
    samples: int
    channels: int

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, without their gains."""
        return tuple(path for path, _ in self.gains)

    def name(self, hashes: Mapping[Path, str]) -> str:
        """Text that is different for different sums: file -> hash of its content."""
        return repr((sorted((hashes[path], gain) for path, gain in self.gains), self[1:]))


def sum_of(files: tuple[Path, ...], samples: int, channels: int) -> Mix:
    """The sum of files, all with gain 1."""
    return Mix(tuple((path, 1) for path in files), samples, channels)


def write_mix(mix: Mix, target: Path) -> None:
    """Write a sum as WAV: 16-bit if all files are and the sum fits, otherwise 32-bit float.

    Raises:
        DataError: A file is damaged.
    """
    infos = [audio.inspect_seekable(path) for path in mix.files]
    if any(info.subtype != "PCM_16" for info in infos) or not _write(mix, target, "PCM_16"):
        _write(mix, target, "FLOAT")


def _write(mix: Mix, target: Path, subtype: str) -> bool:
    """Write a sum; returns False at the first sample that 16 bits cannot hold."""
    rate = audio.inspect_seekable(mix.files[0]).sample_rate
    readers = [(audio.blocks(path, _BLOCK_SAMPLES), gain) for path, gain in mix.gains]
    with soundfile.SoundFile(target, "w", rate, mix.channels, subtype, format="WAV") as file:
        for start in range(0, mix.samples, _BLOCK_SAMPLES):
            length = min(_BLOCK_SAMPLES, mix.samples - start)
            total = np.zeros((mix.channels, length), np.float32)
            for reader, gain in readers:
                block = next(reader, None)
                if block is not None:
                    total[:, : block.shape[1]] += gain * block[:, :length]
            if subtype == "FLOAT":
                file.write(total.T)
                continue
            steps = np.rint(total * _FULL_SCALE)  # sums of up to 256 files are exact
            if steps.max() >= _FULL_SCALE or steps.min() < -_FULL_SCALE:
                return False
            file.write(steps.T.astype(np.int16))
    return True

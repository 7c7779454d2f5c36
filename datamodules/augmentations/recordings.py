"""Folders of recordings for augmentations: noise and impulse responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.files.audio import AnyPath, Audio, AudioInfo, inspect_seekable, read
from datamodules.files.names import is_system_name, suffix_of
from datamodules.files.resampling import resample_blocks, resampled_length

_FORMATS = (".wav", ".flac", ".ogg", ".mp3")


class Recordings:
    """The audio files of a folder and its subfolders, sorted by name.

    Args:
        folder: The folder.
        what: Kind of files, for error messages.

    Raises:
        DataError: The folder is missing or contains no audio, or a file is damaged.
    """

    def __init__(self, folder: AnyPath, what: str) -> None:
        root = Path(folder).expanduser()
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise DataError(
                f"{root}: {found}, a folder of {what} was expected; correct the augmentation's "
                "argument folder"
            )
        self.files: Sequence[Path] = sorted(
            path
            for path in root.rglob("*")
            if suffix_of(path) in _FORMATS
            and path.is_file()
            and not any(map(is_system_name, path.relative_to(root).parts))
        )
        if not self.files:
            raise DataError(
                f"{root}: contains no {what}; put {', '.join(_FORMATS)} files there, or correct "
                "the augmentation's argument folder"
            )
        self.infos: Sequence[AudioInfo] = [inspect_seekable(path) for path in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def file(self, number: int) -> tuple[Path, int]:
        """Path and sample rate in Hz of a recording."""
        return self.files[number], self.infos[number].sample_rate

    def longest_samples(self, sample_rate: int) -> int:
        """Length of the longest recording, samples, at a sample rate in Hz."""
        return max(
            resampled_length(info.samples, info.sample_rate, sample_rate) for info in self.infos
        )

    def read_looped(
        self, number: int, place: float, samples: int, sample_rate: int, channels: int
    ) -> Audio:
        """Read a crop of a recording; one shorter than the crop is repeated.

        Args:
            number: Number of the recording.
            place: Position of the crop, in [0, 1) from the first to the last possible start.
            samples: Length of the crop.
            sample_rate: Sample rate of the crop, Hz.
            channels: Number of channels of the crop.

        Returns:
            Waveform, shape (channels, samples).
        """
        path, info = self.files[number], self.infos[number]
        needed = resampled_length(samples, sample_rate, info.sample_rate)
        if needed <= info.samples:
            crop = read(path, int(place * (info.samples - needed + 1)), needed)
        else:
            indices = int(place * info.samples) + np.arange(needed)
            crop = np.take(read(path), indices, -1, mode="wrap")
        crop = resample(crop, info.sample_rate, sample_rate)
        return match_channels(crop, channels)[:, :samples]


def resample(audio: Audio, sample_rate: int, new_rate: int) -> Audio:
    """Resample a waveform (C, T) to ceil(T × new_rate / sample_rate) samples; rates in Hz."""
    if sample_rate == new_rate:
        return audio
    return np.concatenate(list(resample_blocks([audio], len(audio), sample_rate, new_rate)), -1)


def match_channels(audio: Audio, channels: int) -> Audio:
    """Repeat the average of a waveform's channels if their number is not the requested one."""
    if len(audio) == channels:
        return audio
    return np.repeat(audio.mean(0, keepdims=True), channels, 0)

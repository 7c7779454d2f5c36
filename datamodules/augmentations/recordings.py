"""Folders of recordings that augmentations take their material from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio

from datamodules.errors import DataError
from datamodules.files.audio import AnyPath, Audio, AudioInfo, inspect_seekable, read

_FORMATS = (".wav", ".flac", ".ogg", ".mp3")
# The filter that resamples has a phase for each sample of the shortest time that is whole in both
# rates: 160 from 44.1 to 48 kHz, 11,025 from 44.056 to 44.1 kHz, half a gigabyte.
_MOST_PHASES = 2000


class Recordings:
    """The audio files below a folder, in the order of their names.

    Args:
        folder: The folder; folders in it are searched too.
        what: What the files are, for messages.

    Raises:
        DataError: The folder is missing or holds no audio, or a file is damaged.
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
            if path.suffix.lower() in _FORMATS and path.is_file() and path.name[0] != "."
        )
        if not self.files:
            raise DataError(
                f"{root}: holds no {what}; put {', '.join(_FORMATS)} files there, or correct the "
                "augmentation's argument folder"
            )
        self.infos: Sequence[AudioInfo] = [inspect_seekable(path) for path in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def check_rates(self, sample_rate: int) -> None:
        """Check that all of them can be brought to a sample rate.

        Args:
            sample_rate: Wanted sample rate, Hz.

        Raises:
            DataError: One cannot.
        """
        for path, info in zip(self.files, self.infos, strict=True):
            check_rate(path, info.sample_rate, sample_rate)

    def longest_samples(self, sample_rate: int) -> int:
        """Length of the longest of them at a sample rate in Hz, samples."""
        return max(-(-info.samples * sample_rate // info.sample_rate) for info in self.infos)

    def read_looped(
        self, number: int, place: float, samples: int, sample_rate: int, channels: int
    ) -> Audio:
        """Read a crop of a recording; one shorter than the crop is repeated.

        Args:
            number: Number of the recording.
            place: Where the crop lies, in [0, 1) from first to last possible start.
            samples: Length of the crop.
            sample_rate: Wanted sample rate, Hz.
            channels: Wanted number of channels.

        Returns:
            Waveform, shape (channels, samples).
        """
        path, info = self.files[number], self.infos[number]
        wanted = -(-samples * info.sample_rate // sample_rate)
        if wanted <= info.samples:
            crop = read(path, int(place * (info.samples - wanted + 1)), wanted)
        else:
            whole = read(path)
            crop = np.take(whole, int(place * info.samples) + np.arange(wanted), -1, mode="wrap")
        crop = resampled(crop, info.sample_rate, sample_rate, path)
        return with_channels(crop, channels)[:, :samples]


def check_rate(path: Path, sample_rate: int, wanted_rate: int) -> None:
    """Check that two sample rates have enough in common to resample as one listens.

    Args:
        path: The file that has the rate.
        sample_rate: Its sample rate, Hz.
        wanted_rate: The other one, Hz.

    Raises:
        DataError: They have not.
    """
    if max(sample_rate, wanted_rate) // math.gcd(sample_rate, wanted_rate) > _MOST_PHASES:
        raise DataError(
            f"{path}: sample rate is {sample_rate} Hz, which has too little in common with the "
            f"wanted {wanted_rate} Hz; convert it, for instance by: ffmpeg -i OLD -ar "
            f"{wanted_rate} NEW.wav"
        )


def resampled(audio: Audio, sample_rate: int, wanted_rate: int, path: Path) -> Audio:
    """Bring a waveform to another sample rate.

    Args:
        audio: Shape (C, T).
        sample_rate: Its sample rate, Hz.
        wanted_rate: The other one, Hz.
        path: The file that it is of, for messages.

    Returns:
        Shape (C, ceil(T × wanted_rate / sample_rate)).

    Raises:
        DataError: The rates are too odd a pair.
    """
    if sample_rate == wanted_rate:
        return audio
    check_rate(path, sample_rate, wanted_rate)
    waveform = torch.from_numpy(np.ascontiguousarray(audio))
    result: Audio = torchaudio.functional.resample(waveform, sample_rate, wanted_rate).numpy()
    return result


def with_channels(audio: Audio, channels: int) -> Audio:
    """Bring a waveform to a number of channels; if it has another, all hold its average.

    Args:
        audio: Shape (C, T).
        channels: Wanted number of channels.

    Returns:
        Shape (channels, T).
    """
    if len(audio) == channels:
        return audio
    return np.repeat(audio.mean(0, keepdims=True), channels, 0)

"""Loaders of other projects, as their own training uses them, if they are installed."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.benchmark.corpus import SAMPLE_RATE, Task
from datamodules.benchmark.loaders import ordinary_loader
from datamodules.benchmark.measuring import Batches, Start
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS

# Range of gains in both Open-Unmix and Demucs.
_GAINS = (0.25, 1.25)
# Demucs reads this much more than a crop, and shifts by up to this much.
_DEMUCS_SHIFT_SECONDS = 1.0


# ------------------------------------------------------------------------------------- musdb


class _MusdbCrops(Dataset[Tensor]):
    """Random chunks of musdb's tracks, as in its documentation."""

    def __init__(self, task: Task) -> None:
        import musdb  # needs ffmpeg

        self.tracks = musdb.DB(root=str(task.root), is_wav=True, subsets="train").tracks
        self.seconds = task.segment_seconds

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, number: int) -> Tensor:
        stems = []
        for stem in STEMS:
            track = random.choice(self.tracks)
            track.chunk_duration = self.seconds
            track.chunk_start = random.uniform(0, track.duration - self.seconds)
            waveform = torch.as_tensor(track.sources[stem].audio.T, dtype=torch.float32)
            stems.append(_augment(waveform))
        return torch.stack(stems)


def musdb_chunks(task: Task) -> Start:
    """Chunks by musdb's own access: ``chunk_start``, ``chunk_duration``, ``sources[...].audio``."""
    return _ordinary(_MusdbCrops(task), task)


# -------------------------------------------------------------------------------- Open-Unmix


def openunmix_folders(task: Task) -> Start:
    """Open-Unmix's fastest data set of folders, with its own augmentations.

    It returns the sum of the stems and one of them.
    """
    with _quiet(), former_torchaudio(), _from("openunmix"):
        from openunmix import data

        dataset = data.FixedSourcesTrackFolderDataset(
            root=str(task.root),
            split="train",
            target_file="vocals.wav",
            interferer_files=["drums.wav", "bass.wav", "other.wav"],
            seq_duration=task.segment_seconds,
            random_chunks=True,
            random_track_mix=True,
            source_augmentations=data.aug_from_str(["gain", "channelswap"]),
        )
    return _ordinary(dataset, task)


def openunmix_musdb(task: Task) -> Start:
    """Open-Unmix's data set of MUSDB18, which reads through musdb."""
    with _quiet(), _from("openunmix"):
        from openunmix import data

        dataset = data.MUSDBDataset(
            root=str(task.root),
            is_wav=True,
            seq_duration=task.segment_seconds,
            random_track_mix=True,
            source_augmentations=data.aug_from_str(["gain", "channelswap"]),
        )
    return _ordinary(dataset, task)


# ------------------------------------------------------------------------------------ Demucs


def demucs_wavset(task: Task) -> Start:
    """Demucs' data set, and its augmentations of batches: shift, swap, gain, remix."""
    with _quiet(), former_torchaudio(), _from("demucs[train]"):
        from demucs import augment, wav

        dataset = wav.Wavset(
            task.root / "train",
            wav.build_metadata(task.root / "train", list(STEMS)),
            list(STEMS),
            segment=task.segment_seconds + _DEMUCS_SHIFT_SECONDS,
            shift=_DEMUCS_SHIFT_SECONDS,
        )
    augmentations = torch.nn.Sequential(
        augment.Shift(round(_DEMUCS_SHIFT_SECONDS * SAMPLE_RATE)),
        augment.FlipChannels(),
        augment.Scale(min=_GAINS[0], max=_GAINS[1]),
        augment.Remix(group_size=4 if task.batch_size % 4 == 0 else 0),
    )

    def start(workers: int) -> Batches:
        with former_torchaudio():
            for batch in ordinary_loader(dataset, task, workers):
                yield augmentations(batch)

    return start


# -------------------------------------------------------------------------------- torchaudio


class _TorchaudioCrops(Dataset[Tensor]):
    """Crops of the complete files that torchaudio's data set decodes, each stem from any track."""

    def __init__(self, task: Task) -> None:
        from torchaudio.datasets import MUSDB_HQ

        root = task.root.parent
        self.stems = [MUSDB_HQ(str(root), "train", sources=[stem]) for stem in STEMS]
        self.samples = task.segment_samples

    def __len__(self) -> int:
        return len(self.stems[0])

    def __getitem__(self, number: int) -> Tensor:
        stems = []
        for dataset in self.stems:
            waveform, _, samples, _ = dataset[random.randrange(len(dataset))]
            start = random.randint(0, samples - self.samples)
            stems.append(_augment(waveform[0, :, start : start + self.samples]))
        return torch.stack(stems)


def torchaudio_musdb_hq(task: Task) -> Start:
    """Torchaudio's data set, which decodes a complete file for each crop."""
    return _ordinary(_TorchaudioCrops(task), task)


# ------------------------------------------------------------------------------------ shared


def _ordinary(dataset: Dataset[Any], task: Task) -> Start:
    def start(workers: int) -> Batches:
        with former_torchaudio():
            yield from ordinary_loader(dataset, task, workers)

    return start


def _augment(waveform: Tensor) -> Tensor:
    waveform = waveform * random.uniform(*_GAINS)
    return waveform.flip(0) if random.random() < 0.5 else waveform


@contextlib.contextmanager
def _from(package: str) -> Iterator[None]:
    """Turn a missing package into an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise DataError(f"{error.name} is not installed: pip install '{package}'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars of other projects."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def former_torchaudio() -> Iterator[None]:
    """Restore functions of torchaudio before 2.9 with its soundfile backend.

    The loaders here need ``info`` and the choice of a backend, which were removed; the new ``load``
    needs torchcodec and is slower. Forked workers inherit the patch.
    """
    import torchaudio

    with mock.patch.multiple(
        torchaudio, create=True, load=_load, info=_info, get_audio_backend=lambda: "soundfile"
    ):
        yield


def _load(path: str | Path, frame_offset: int = 0, num_frames: int = -1) -> tuple[Tensor, int]:
    with soundfile.SoundFile(path) as file:
        file.seek(frame_offset)
        audio = file.read(num_frames, dtype="float32", always_2d=True)
        return torch.from_numpy(audio).T, file.samplerate


def _info(path: str | Path) -> SimpleNamespace:
    found = soundfile.info(path)
    return SimpleNamespace(
        sample_rate=found.samplerate, num_frames=found.frames, num_channels=found.channels
    )

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
from datamodules.benchmark.loaders import GAINS, StemCrops, ordinary_loader
from datamodules.benchmark.measuring import Batches, Start
from datamodules.errors import DataError
from datamodules.tracks.layouts import STEMS

# Demucs reads this much more than a crop, and shifts by up to this much.
_DEMUCS_SHIFT_SECONDS = 1.0


def musdb_chunks(task: Task) -> Start:
    """Random chunks of musdb's tracks, as in its documentation."""
    import musdb  # needs ffmpeg

    tracks = musdb.DB(root=str(task.root), is_wav=True, subsets="train").tracks

    def read(number: int, stem: str) -> Tensor:
        track = tracks[number]
        track.chunk_duration = task.segment_seconds
        track.chunk_start = random.uniform(0, track.duration - task.segment_seconds)
        return torch.as_tensor(track.sources[stem].audio.T, dtype=torch.float32)

    return _ordinary(StemCrops(len(tracks), read), task)


def openunmix_folders(task: Task) -> Start:
    """Open-Unmix's fastest data set of folders, with its own augmentations.

    It returns the sum of the stems and one of them.
    """
    return _openunmix(
        "FixedSourcesTrackFolderDataset",
        task,
        split="train",
        target_file="vocals.wav",
        interferer_files=["drums.wav", "bass.wav", "other.wav"],
        random_chunks=True,
    )


def openunmix_musdb(task: Task) -> Start:
    """Open-Unmix's data set of MUSDB18, which reads through musdb."""
    return _openunmix("MUSDBDataset", task, is_wav=True)


def _openunmix(class_name: str, task: Task, **settings: Any) -> Start:
    with _importing("openunmix"):
        from openunmix import data

        dataset = getattr(data, class_name)(
            root=str(task.root),
            seq_duration=task.segment_seconds,
            random_track_mix=True,
            source_augmentations=data.aug_from_str(["gain", "channelswap"]),
            **settings,
        )
    return _ordinary(dataset, task)


def demucs_wavset(task: Task) -> Start:
    """Demucs' data set, and its augmentations of batches: shift, swap, gain, remix."""
    with _importing("demucs[train]"):
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
        augment.Scale(min=GAINS[0], max=GAINS[1]),
        augment.Remix(group_size=4 if task.batch_size % 4 == 0 else 0),
    )
    ordinary = _ordinary(dataset, task)
    return lambda workers: (augmentations(batch) for batch in ordinary(workers))


def torchaudio_musdb_hq(task: Task) -> Start:
    """Torchaudio's data set, which decodes a complete file for each crop."""
    from torchaudio.datasets import MUSDB_HQ

    root = str(task.root.parent)
    datasets = {stem: MUSDB_HQ(root, "train", sources=[stem]) for stem in STEMS}

    def read(number: int, stem: str) -> Tensor:
        waveform, _, samples, _ = datasets[stem][number]
        start = random.randint(0, samples - task.segment_samples)
        crop: Tensor = waveform[0, :, start : start + task.segment_samples]
        return crop

    return _ordinary(StemCrops(len(task.tracks), read), task)


def _ordinary(dataset: Dataset[Any], task: Task) -> Start:
    """``ordinary_loader`` with the former functions of torchaudio."""

    def start(workers: int) -> Batches:
        with former_torchaudio():
            yield from ordinary_loader(dataset, task)(workers)

    return start


@contextlib.contextmanager
def _importing(package: str) -> Iterator[None]:
    """Hide a package's progress bars; if it is missing, say how to install it."""
    hidden = io.StringIO()
    with contextlib.redirect_stderr(hidden), contextlib.redirect_stdout(hidden):
        try:
            with former_torchaudio():
                yield
        except ModuleNotFoundError as error:
            raise DataError(f"{error.name} is not installed: pip install '{package}'") from error


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

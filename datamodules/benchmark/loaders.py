"""The memory bandwidth limit, an ordinary loader of soundfile, and Stemlab's loader."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.augmentations.simple import ChannelSwap, Gain
from datamodules.benchmark.corpus import Task
from datamodules.benchmark.measuring import Batches, Start
from datamodules.files import write_crop
from datamodules.files.mapped_wav import MappedFile
from datamodules.musdb import MUSDBDataModule
from datamodules.randomness import Position
from datamodules.stream.ring_loader import RingLoader
from datamodules.tracks.layouts import STEMS

# More examples than a run can take, so that the start of an epoch is not measured.
_ENDLESS = 2**40
_PLANNED_BATCHES = 64
# Range of gains, as in both Open-Unmix and Demucs.
GAINS = (0.25, 1.25)


def copy_limit(task: Task, dtype: torch.dtype) -> Start:
    """Copy only: no workers, random numbers, deinterleaving of channels, gain or checks.

    Crops of the mapped files are copied to a ring in shared memory, in the files' order of samples,
    and converted to ``dtype``; int16 is a plain copy.
    """
    files = [[MappedFile(track[stem]).samples for stem in STEMS] for track in task.tracks]
    generator = np.random.default_rng(0)

    def crop(stem: int) -> Tensor:
        samples = files[generator.integers(len(files))][stem]
        start = generator.integers(max(len(samples) - task.segment_samples, 0) + 1)
        return samples[start : start + task.segment_samples]

    # Drawn beforehand; more than fit into the CPU's caches.
    plan = [
        [[crop(stem) for stem in range(len(STEMS))] for _ in range(task.batch_size)]
        for _ in range(_PLANNED_BATCHES)
    ]
    shape = (task.batch_size, len(STEMS), task.segment_samples, 2)

    def start(workers: int) -> Batches:
        ring = torch.empty(3, *shape, dtype=dtype).share_memory_()
        number = 0
        while True:
            batch = ring[number % len(ring)]
            for example, crops in zip(batch, plan[number % len(plan)], strict=True):
                for place, source in zip(example, crops, strict=True):
                    place[: len(source)].copy_(source)
            yield batch
            number += 1

    return start


class StemCrops(Dataset[Tensor]):
    """A straightforward data set: crops of random tracks, random gain and swap, stack.

    Args:
        tracks: Number of tracks.
        read: Reads a random crop of a track's stem into new memory, shape (2, T).
    """

    def __init__(self, tracks: int, read: Callable[[int, str], Tensor]) -> None:
        self.tracks, self.read = tracks, read

    def __len__(self) -> int:
        return self.tracks

    def __getitem__(self, _: int) -> Tensor:
        stems = []
        for stem in STEMS:
            waveform = self.read(random.randrange(self.tracks), stem)
            waveform *= random.uniform(*GAINS)
            stems.append(waveform.flip(0) if random.random() < 0.5 else waveform)
        return torch.stack(stems)


def ordinary_loader(dataset: Dataset[Any], task: Task) -> Start:
    """PyTorch's loader with the settings that are fastest here."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=_ENDLESS)  # type: ignore[arg-type]

    def start(workers: int) -> Batches:
        yield from DataLoader(dataset, task.batch_size, sampler=sampler, num_workers=workers)

    return start


def plain_soundfile(task: Task) -> Start:
    """Crops read by soundfile, in PyTorch's loader."""
    lengths = [soundfile.info(track[STEMS[0]]).frames for track in task.tracks]

    def read(track: int, stem: str) -> Tensor:
        samples = task.segment_samples
        with soundfile.SoundFile(task.tracks[track][stem]) as file:
            file.seek(random.randint(0, max(lengths[track] - samples, 0)))
            audio = file.read(samples, dtype="float32", always_2d=True, fill_value=0)
        return torch.from_numpy(audio).T

    return ordinary_loader(StemCrops(len(lengths), read), task)


def stemlab(task: Task, int16_to_device: bool = False, compiled: bool = True) -> Start:
    """Stemlab's training stream, with every stem from another track.

    Args:
        task: The task.
        int16_to_device: Leave conversion, gain and swap to the device.
        compiled: Use the kernel compiled by numba, instead of the fallback without numba.
    """
    module = MUSDBDataModule(
        root=str(task.root),
        segment_seconds=task.segment_seconds,
        batch_size=task.batch_size,
        examples_per_epoch=_ENDLESS,
        mix_probability=1.0,
        augmentations=[Gain(), ChannelSwap()],
        validation_tracks=[task.tracks[-1][STEMS[0]].parent.name],
        int16_to_device=int16_to_device,
    )
    module.setup("fit")

    def start(workers: int) -> Batches:
        module.num_workers = workers
        loader = module.train_dataloader()
        assert isinstance(loader, RingLoader)
        if not compiled:
            slots: Any = loader.dataset
            slots.examples.fill = _WithoutKernel(slots.examples.fill)
        try:
            yield from loader
        finally:  # end persistent workers at once, as Lightning does after training
            if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
                loader._iterator._shutdown_workers()
            loader._iterator = None

    return start


class _WithoutKernel:
    """Writes examples as if numba were not installed; can be passed to workers."""

    def __init__(self, fill: Callable[[Tensor, Position], None]) -> None:
        self.fill = fill

    def __call__(self, example: Tensor, position: Position) -> None:
        kernel = write_crop._stereo_kernel
        write_crop._stereo_kernel = lambda: None  # type: ignore[assignment]
        try:
            self.fill(example, position)
        finally:
            write_crop._stereo_kernel = kernel

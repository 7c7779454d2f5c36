"""The memory bandwidth limit, an ordinary loader of soundfile, and Stemlab's loader."""

from __future__ import annotations

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
_LOWEST_GAIN, _HIGHEST_GAIN = 0.25, 1.25


# ---------------------------------------------------------------- memory bandwidth limit


def copy_limit(task: Task, dtype: torch.dtype) -> Start:
    """Copy only: no random numbers, no deinterleaving of channels, no gain, no checks.

    Crops of the mapped files are copied to a ring in shared memory, in the files' order of samples.

    Args:
        task: The task.
        dtype: Type to convert to; int16 is a plain copy.

    Returns:
        The loader, which has no workers.
    """
    files = [[MappedFile(track[stem]).samples for stem in STEMS] for track in task.tracks]
    random = np.random.default_rng(0)

    def crop(stem: int) -> Tensor:
        samples = files[random.integers(len(files))][stem]
        start = random.integers(max(len(samples) - task.segment_samples, 0) + 1)
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


# ------------------------------------------------------------------------- an ordinary loader


class SoundfileCrops(Dataset[Tensor]):
    """A straightforward data set: seek, read, gain, swap, stack.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.lengths = [soundfile.info(track[STEMS[0]]).frames for track in task.tracks]

    def __len__(self) -> int:
        return len(self.task.tracks)

    def __getitem__(self, number: int) -> Tensor:
        """Make an example.

        Args:
            number: Index of the first stem's track; the other stems' tracks are drawn.

        Returns:
            Stems, shape (stems, 2, T).
        """
        stems = []
        for stem in STEMS:
            samples = self.task.segment_samples
            start = int(torch.randint(max(self.lengths[number] - samples, 0) + 1, ()))
            with soundfile.SoundFile(self.task.tracks[number][stem]) as file:
                file.seek(start)
                audio = file.read(samples, dtype="float32", always_2d=True, fill_value=0)
            waveform = torch.from_numpy(audio).T
            waveform *= torch.empty(()).uniform_(_LOWEST_GAIN, _HIGHEST_GAIN)
            stems.append(waveform.flip(0) if torch.rand(()) < 0.5 else waveform)
            number = int(torch.randint(len(self.task.tracks), ()))
        return torch.stack(stems)


def ordinary_loader(dataset: Dataset[Any], task: Task, workers: int) -> DataLoader[Any]:
    """PyTorch's loader with the settings that are fastest here.

    Args:
        dataset: Makes the examples.
        task: The task.
        workers: Number of worker processes.

    Returns:
        An endless loader that draws examples with replacement.
    """
    return DataLoader(
        dataset,
        task.batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=_ENDLESS),  # type: ignore[arg-type]
        num_workers=workers,
    )


def plain_soundfile(task: Task) -> Start:
    """``SoundfileCrops`` in PyTorch's loader."""
    dataset = SoundfileCrops(task)

    def start(workers: int) -> Batches:
        yield from ordinary_loader(dataset, task, workers)

    return start


# -------------------------------------------------------------------------------- Stemlab's


def stemlab(task: Task, int16_to_device: bool = False, compiled: bool = True) -> Start:
    """Stemlab's training stream, with every stem from another track.

    Args:
        task: The task.
        int16_to_device: Leave conversion, gain and swap to the device.
        compiled: Use the kernel compiled by numba, instead of the fallback without numba.

    Returns:
        The loader.
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
        finally:
            _end_persistent_workers(loader)

    return start


def _end_persistent_workers(loader: DataLoader[Any]) -> None:
    """End persistent workers at once, as Lightning does after training."""
    if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
        loader._iterator._shutdown_workers()
    loader._iterator = None


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

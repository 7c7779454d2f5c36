"""Separation of many songs: several at a time, and on several devices."""

from __future__ import annotations

import copy
import heapq
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from lightning_modules.inference import stem_files
from lightning_modules.inference.report import Job, Progress, Report, explain
from lightning_modules.inference.separation import SeparationSettings
from lightning_modules.inference.shared_batches import SharedBatches
from lightning_modules.inference.stem_files import SeparatingModule
from lightning_modules.runtime.device import in_precision

# Devices on which the time of a batch is proportional to its size: filling it gains nothing.
_PROPORTIONAL = ("cpu",)


class Songs:
    """Separates songs; errors of one do not stop the others.

    Args:
        jobs: The songs, not none.
        output: Folder of the stems and of temporary files.
        report: Where songs are reported.
        show_folders: Report the folder of a song rather than its files.
        keywords: Of ``separate_file``.

    Attributes:
        jobs: The songs.
        failed: Number of songs that could not be separated.
        incomplete: Number of songs of which a part is missing.
    """

    def __init__(
        self, jobs: Sequence[Job], output: Path, report: Report, show_folders: bool, **keywords: Any
    ) -> None:
        self.jobs, self._output, self._report = jobs, output, report
        self._show_folders, self._keywords = show_folders, keywords
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self.failed = self.incomplete = 0

    def separate(self, models: Sequence[SeparatingModule], at_once: int) -> float:
        """Separate all songs.

        Args:
            models: Copies of the separator on several devices, among which the songs are divided.
            at_once: Number of songs at a time on each.

        Returns:
            Length of what was separated, seconds.
        """
        all_batches: list[SharedBatches] = []
        pools: list[ThreadPoolExecutor] = []
        waiting: list[Future[None]] = []
        with Progress(self.jobs, self._report.quiet) as progress, ExitStack() as stack:
            for model, share in zip(models, shares(self.jobs, len(models)), strict=True):
                batches = SharedBatches(len(share), at_once)
                if model.device.type not in _PROPORTIONAL:
                    _share(model, batches)
                pool = stack.enter_context(ThreadPoolExecutor(batches.most_open))
                waiting += [
                    pool.submit(self._separate, job, model, batches, progress) for job in share
                ]
                all_batches.append(batches)
                pools.append(pool)
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                self._stopped.set()
                for batches in all_batches:
                    batches.stop()
                for pool in pools:
                    pool.shutdown(cancel_futures=True)
                raise
        return progress.seconds

    def _separate(
        self, job: Job, model: SeparatingModule, batches: SharedBatches, progress: Progress
    ) -> None:
        read = 0.0

        def advance(samples: int) -> None:
            nonlocal read
            if self._stopped.is_set():
                raise KeyboardInterrupt
            read += samples / job.info.sample_rate
            progress.advance(samples / job.info.sample_rate)

        path, files = job.song.path, [*job.files.values()]
        try:
            with _current(model.device), batches.song():
                progress.begin(job)
                start = time.perf_counter()
                done = stem_files.separate_file(
                    model, path, self._output, files=files, progress=advance, **self._keywords
                )
        except Exception as error:  # of libraries, too: the other songs are still separated
            with self._lock:
                self.failed += 1
            progress.skip(job.seconds - read)
            self._report.error(path, explain(path, error))
            return
        with self._lock:
            self.incomplete += bool(done.shortfall)
        self._report.separated(
            job,
            elapsed=time.perf_counter() - start,
            audio_seconds=read,
            gain=done.gain,
            shortfall=done.shortfall,
            shown=[files[0].parent] if self._show_folders else files,
        )


def shares(jobs: Sequence[Job], number: int) -> list[list[Job]]:
    """Divide songs among devices so that all have about as much to do.

    The longest remaining song goes to the device with the least; each keeps the order of the songs.
    """
    loads = [(0.0, 0, device) for device in range(number)]  # seconds, songs
    owners: dict[int, int] = {}
    for position, job in sorted(enumerate(jobs), key=lambda item: -item[1].seconds):
        seconds, songs, device = heapq.heappop(loads)
        owners[position] = device
        heapq.heappush(loads, (seconds + job.seconds, songs + 1, device))
    return [
        [job for position, job in enumerate(jobs) if owners[position] == device]
        for device in range(number)
    ]


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Let kernels of this thread start on a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def copy_to(model: Any, devices: Sequence[torch.device], precision: str) -> list[SeparatingModule]:
    """Copy a model to devices, and let its networks run in a precision.

    Args:
        model: The separator, on the first of the devices.
        devices: The devices.
        precision: One of ``runtime.device.PRECISIONS``.
    """
    models = [model, *(copy.deepcopy(model).to(device) for device in devices[1:])]
    for each, device in zip(models, devices, strict=True):
        for part, _ in _networks(each, each.separation_settings):
            part.forward = in_precision(part.forward, device, precision)
    return models


def _share(model: SeparatingModule, batches: SharedBatches) -> None:
    """Let a model, or the members of an ensemble, separate chunks of several songs at once."""
    for part, settings in _networks(model, model.separation_settings):
        part.forward = batches.share(part.forward, settings.batch_size)


def _networks(model: Any, settings: SeparationSettings) -> Iterator[tuple[Any, SeparationSettings]]:
    """Models that separate chunks, with their settings: of an ensemble the members."""
    members = getattr(model, "members", None)
    if members is None:
        yield model, settings
        return
    for member, own in zip(members, settings.members or [settings] * len(members), strict=True):
        yield from _networks(member, own)

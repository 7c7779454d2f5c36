"""Separation of many songs: several at a time, and on several devices."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning_modules.base.separator import SourceSeparator
from lightning_modules.inference import stem_files
from lightning_modules.inference.report import Job, Progress, Report, explain
from lightning_modules.inference.shared_batches import SharedBatches

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
        self._stopped = threading.Event()
        self.failed = self.incomplete = 0

    def separate(self, model: SourceSeparator, at_once: int) -> float:
        """Separate all songs.

        Args:
            model: The separator.
            at_once: Number of songs at a time.

        Returns:
            Length of what was separated, seconds.
        """
        batches = SharedBatches(len(self.jobs), at_once)
        if model.device.type not in _PROPORTIONAL:
            _share(model, batches)
        with Progress(self.jobs, self._report.quiet) as progress, ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(batches.most_open))
            waiting = [
                pool.submit(self._separate, job, model, batches, progress) for job in self.jobs
            ]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                self._stopped.set()
                batches.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return progress.seconds

    def _separate(
        self, job: Job, model: SourceSeparator, batches: SharedBatches, progress: Progress
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
            with batches.song():
                progress.begin(job)
                start = time.perf_counter()
                done = stem_files.separate_file(
                    model, path, self._output, files=files, progress=advance, **self._keywords
                )
        except Exception as error:  # of libraries, too: the other songs are still separated
            self.failed += 1
            progress.skip(job.seconds - read)
            self._report.error(path, explain(path, error))
            return
        self.incomplete += bool(done.shortfall)
        self._report.separated(
            job,
            elapsed=time.perf_counter() - start,
            audio_seconds=read,
            gain=done.gain,
            shortfall=done.shortfall,
            shown=[files[0].parent] if self._show_folders else files,
        )


def _share(model: SourceSeparator, batches: SharedBatches) -> None:
    """Let a model, or the members of an ensemble, separate chunks of several songs at once."""
    settings = model.separation_settings
    parts = zip(getattr(model, "members", [model]), settings.members or [settings], strict=True)
    for part, own in parts:
        part.forward = batches.share(part.forward, own.batch_size)

"""Estimates as audio files, written as they come and never half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import soundfile
import torch

from datamodules.audio import Audio, blocks, inspect
from lightning_modules.postprocessing import PostProcessing
from lightning_modules.separation import Separator, separate_stream

_BLOCK_SECONDS = 30


class SeparatingModule(Separator, Protocol):
    """A separator that knows how it wants to be run."""

    overlap: float
    chunks_at_once: int
    shifts: int
    postprocessing: PostProcessing | None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...


class StemFiles:
    """A folder of WAV files, one a source, filled block by block.

    The files are 32-bit float: a sum of them is the mixture to the rounding, and
    nothing clips. They grow under a temporary name and take their own when all
    of them are whole.

    Args:
        folder: Where ``<source>.wav`` go; created when needed.
        sources: Names of the sources.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        force: Overwrite files that are there.

    Raises:
        FileExistsError: A file is there and ``force`` is not given.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[str],
        sample_rate: int,
        channels: int,
        force: bool = False,
    ) -> None:
        self.folder = folder
        self.sources = list(sources)
        self.sample_rate, self.channels = sample_rate, channels
        if not force:
            self.check_free(folder, sources)
        self._unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")

    @staticmethod
    def check_free(folder: Path, sources: Sequence[str]) -> None:
        """Check that nothing would be overwritten.

        Args:
            folder: Where ``<source>.wav`` would go.
            sources: Names of the sources.

        Raises:
            FileExistsError: A file is there.
        """
        for path in (folder / f"{name}.wav" for name in sources):
            if path.exists():
                raise FileExistsError(
                    f"{path} is there already; give --force to overwrite it, or another folder"
                )

    def __enter__(self) -> StemFiles:
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._files = [
            soundfile.SoundFile(
                self._unfinished / f"{name}.wav",
                "w",
                samplerate=self.sample_rate,
                channels=self.channels,
                subtype="FLOAT",
                format="WAV",
            )
            for name in self.sources
        ]
        return self

    def write(self, estimates: Audio) -> None:
        """Append a block.

        Args:
            estimates: Waveforms, shape (S, C, n).
        """
        for file, estimate in zip(self._files, estimates, strict=True):
            file.write(estimate.T)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        if error is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self.sources:
                (self._unfinished / f"{name}.wav").replace(self.folder / f"{name}.wav")
        shutil.rmtree(self._unfinished, ignore_errors=True)


def separate_file(
    model: SeparatingModule,
    song: Path,
    folder: Path,
    *,
    force: bool = False,
    overlap: float | None = None,
    shifts: int | None = None,
    postprocessing: PostProcessing | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> None:
    """Separate an audio file of any length and rate, block by block.

    Args:
        model: The separator.
        song: The audio file.
        folder: Where the stems go.
        force: Overwrite what is there.
        overlap: Part of a chunk that is cross-faded with the next; by default the model's.
        shifts: Random delays of the mixture to average over; by default the model's.
        postprocessing: What is done to the estimates; by default what the model's settings say.
        progress: Told the number of samples that have just been separated.

    Raises:
        DataError: The file cannot be read.
        FileExistsError: Stems are there and ``force`` is not given.
    """
    info = inspect(song)
    pieces = (
        torch.from_numpy(block).to(model.device)
        for block in blocks(song, _BLOCK_SECONDS * info.sample_rate)
    )
    estimates = separate_stream(
        model,
        pieces,
        info.sample_rate,
        overlap=model.overlap if overlap is None else overlap,
        batch_size=model.chunks_at_once,
        shifts=model.shifts if shifts is None else shifts,
        postprocessing=model.postprocessing if postprocessing is None else postprocessing,
        progress=progress,
    )
    with StemFiles(folder, model.sources, info.sample_rate, info.channels, force=force) as files:
        for estimate in estimates:
            files.write(estimate.cpu().numpy())

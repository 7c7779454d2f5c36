"""Estimates as audio files, written as they come and never half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import soundfile


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
        existing = self.existing(folder, sources)
        if existing and not force:
            raise FileExistsError(
                f"{existing[0]} is there already; give --force to overwrite it, or another folder"
            )
        self._unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")

    @staticmethod
    def existing(folder: Path, sources: Sequence[str]) -> list[Path]:
        """Files that would be overwritten."""
        return [path for path in (folder / f"{name}.wav" for name in sources) if path.exists()]

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

    def write(self, estimates: npt.NDArray[np.float32]) -> None:
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

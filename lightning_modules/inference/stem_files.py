"""Estimates as audio files, written as they come and never half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import soundfile
import torch

from datamodules.errors import DataError
from datamodules.files.audio import Audio, blocks, inspect
from datamodules.files.tags import read_tags
from datamodules.tracks.checks import nan_finding
from lightning_modules.inference.encoding import MIXTURE, Encoding
from lightning_modules.inference.postprocessing import PostProcessing
from lightning_modules.inference.separation import Separator, separate_stream

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


@dataclass(frozen=True)
class Selection:
    """Which stems are written of what a model separates.

    Args:
        stems: Some of the sources; by default all.
        two_stems: A source: it is written, and as ``no_<source>`` the sum of all others.
        residual: Write as ``residual`` what the mixture holds beyond all estimates, too.

    Raises:
        DataError: Both ``stems`` and ``two_stems`` are given.
    """

    stems: Sequence[str] | None = None
    two_stems: str | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        if self.stems is not None and self.two_stems:
            raise DataError("--stems and --two-stems: give one of them")

    def names(self, sources: Sequence[str]) -> list[str]:
        """Name the stems.

        Args:
            sources: What the model separates.

        Raises:
            DataError: A name is none of them.
        """
        asked = [self.two_stems] if self.two_stems else self.stems
        for name in asked or []:
            if name not in sources:
                raise DataError(
                    f"no stem {name!r} comes out of this model: give some of {', '.join(sources)}"
                )
        names = [source for source in sources if asked is None or source in asked]
        if self.two_stems:
            names.append(f"no_{self.two_stems}")
        return names + ["residual"] * self.residual

    def take(self, estimates: Audio, sources: Sequence[str], mixture: Audio | None) -> Audio:
        """Take the stems.

        Args:
            estimates: Waveforms, shape (S, C, n).
            sources: Their names.
            mixture: What they were separated from, shape (C, n); only the residual needs it.

        Returns:
            Waveforms in the order of ``names``, shape (stems, C, n).
        """
        names = self.names(sources)
        taken = [estimates[sources.index(name)] for name in names if name in sources]
        if self.two_stems:
            taken.append(np.delete(estimates, sources.index(self.two_stems), 0).sum(0))
        if self.residual:
            assert mixture is not None
            taken.append(mixture - estimates.sum(0))
        return np.stack(taken)


class StemFiles:
    """A folder of audio files, one a stem, filled block by block.

    They grow as 32-bit float WAV under a temporary name, and are encoded and take their own
    names when all of them are whole.

    Args:
        folder: Where the files go; created when needed.
        stems: Names of the stems.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        force: Overwrite files that are there.
        encoding: Format of the files; by default 32-bit float WAV, whose sum is the mixture to
            the rounding, and which does not clip.
        tags: Title, artist and the like, by soundfile's names.

    Attributes:
        gain: After the end, what the stems were turned down by so that none is clipped.

    Raises:
        FileExistsError: A file is there and ``force`` is not given.
    """

    def __init__(
        self,
        folder: Path,
        stems: Sequence[str],
        sample_rate: int,
        channels: int,
        force: bool = False,
        encoding: Encoding | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.stems = list(stems)
        self.sample_rate, self.channels = sample_rate, channels
        self.encoding = encoding or Encoding()
        self.tags = tags or {}
        self.gain = 1.0
        self._peak = 0.0
        if not force:
            self.check_free(folder, stems, self.encoding)
        self._unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")

    @staticmethod
    def check_free(folder: Path, stems: Sequence[str], encoding: Encoding | None = None) -> None:
        """Check that nothing would be overwritten.

        Args:
            folder: Where the files would go.
            stems: Names of the stems.
            encoding: Format of the files.

        Raises:
            FileExistsError: A file is there.
        """
        for path in (encoding or Encoding()).files(folder, list(stems)):
            if path.exists():
                raise FileExistsError(
                    f"{path} is there already; give --force to overwrite it, --resume to leave out "
                    "songs that are done, or another folder"
                )

    def __enter__(self) -> StemFiles:
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._paths = {name: self._unfinished / f".{name}.wav" for name in self.stems}
        size = {"samplerate": self.sample_rate, "channels": self.channels}
        self._files = [
            # WAV itself ends at 4 GiB.
            soundfile.SoundFile(path, "w", **size, subtype="FLOAT", format="RF64")
            for path in self._paths.values()
        ]
        return self

    def write(self, stems: Audio) -> None:
        """Append a block.

        Args:
            stems: Waveforms, shape (stems, C, n).
        """
        self._peak = max(self._peak, float(np.abs(stems).max(initial=0)))
        for file, stem in zip(self._files, stems, strict=True):
            file.write(stem.T)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self._unfinished, ignore_errors=True)

    def _finish(self) -> None:
        self.gain = self.encoding.gain(self._peak)
        finished = self.encoding.files(self.folder, self.stems)
        unfinished = [self._unfinished / path.name for path in finished]
        self.encoding.write(self._paths, unfinished, self.gain, self.tags)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, final in zip(unfinished, finished, strict=True):
            path.replace(final)


def separate_file(
    model: SeparatingModule,
    song: Path,
    folder: Path,
    *,
    force: bool = False,
    overlap: float | None = None,
    shifts: int | None = None,
    postprocessing: PostProcessing | None = None,
    selection: Selection | None = None,
    encoding: Encoding | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> float:
    """Separate an audio file of any length and rate, block by block.

    Args:
        model: The separator.
        song: The audio file; its tags go to the stems.
        folder: Where the stems go.
        force: Overwrite what is there.
        overlap: Part of a chunk that is cross-faded with the next; by default the model's.
        shifts: Random delays of the mixture to average over; by default the model's.
        postprocessing: What is done to the estimates; by default what the model's settings say.
        selection: Which stems are written; by default one a source.
        encoding: Format of the files; by default 32-bit float WAV.
        progress: Told the number of samples that have just been separated.

    Returns:
        What the stems were turned down by so that none is clipped; 1 for not at all.

    Raises:
        DataError: The file cannot be read or is not finite, or a stem or its rate does not fit.
        FileExistsError: Stems are there and ``force`` is not given.
    """
    info = inspect(song)
    selection, encoding = selection or Selection(), encoding or Encoding()
    encoding.check_rate(song, info.sample_rate)
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
    names = selection.names(model.sources)
    done = 0
    if encoding.is_one_file:
        names.append(MIXTURE)
    # The song is read once more beside its estimates, which may come long after.
    mixture = _Reader(song, info.sample_rate)
    with StemFiles(
        folder, names, info.sample_rate, info.channels, force, encoding, read_tags(song)
    ) as files:
        for part in estimates:
            audio = part.cpu().numpy()
            if not np.isfinite(audio).all():
                raise _not_finite(song, info.sample_rate, done)
            done += audio.shape[-1]
            needed = selection.residual or encoding.is_one_file
            original = mixture.read(audio.shape[-1]) if needed else None
            stems = selection.take(audio, model.sources, original)
            if encoding.is_one_file:
                assert original is not None
                stems = np.concatenate([stems, original[None]])
            files.write(stems)
    return files.gain


def _not_finite(song: Path, sample_rate: int, done: int) -> DataError:
    """Tell whose fault it is that estimates are not finite from some sample on."""
    position = 0
    for block in blocks(song, _BLOCK_SECONDS * sample_rate):
        finite = np.isfinite(block).all(0)
        if not finite.all():
            return DataError(str(nan_finding(song, position + int(np.argmin(finite)), sample_rate)))
        position += block.shape[-1]
    return DataError(
        f"{song}: its estimates are NaN or infinite after {done / sample_rate:.3f} s, though the "
        "song is not; use another checkpoint"
    )


class _Reader:
    """Reads a file from its beginning, as many samples as are asked for each time."""

    def __init__(self, song: Path, block_samples: int) -> None:
        self._song, self._block_samples = song, block_samples
        self._blocks: Iterator[Audio] | None = None
        self._waiting: list[Audio] = []

    def read(self, samples: int) -> Audio:
        """Read the next samples (C, samples)."""
        if self._blocks is None:
            self._blocks = blocks(self._song, self._block_samples)
        while sum(block.shape[-1] for block in self._waiting) < samples:
            self._waiting.append(next(self._blocks))
        waiting = np.concatenate(self._waiting, -1)
        self._waiting = [waiting[:, samples:]]
        return waiting[:, :samples]

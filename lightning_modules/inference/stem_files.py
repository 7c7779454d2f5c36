"""Estimates as audio files, written block by block and renamed once complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch

from datamodules.errors import DataError
from datamodules.files.audio import Audio, open_song
from datamodules.tracks.checks import nan_finding
from lightning_modules.inference.encoding import MIXTURE, Encoding
from lightning_modules.inference.postprocessing import PostProcessing
from lightning_modules.inference.separation import Separator, separate_stream


class SeparatingModule(Separator, Protocol):
    """A separator with its own settings of separation."""

    overlap: float
    chunks_at_once: int
    shifts: int
    postprocessing: PostProcessing | None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...


@dataclass(frozen=True)
class Selection:
    """Which stems to write.

    Args:
        stems: Some of the sources; by default all.
        two_stems: Write this source, and the sum of all others as ``no_<source>``.
        residual: Also write the mixture minus all estimates as ``residual``.

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
        """Return the names of the stems of a model with the given sources.

        Raises:
            DataError: A requested name is not among them.
        """
        requested = [self.two_stems] if self.two_stems else self.stems
        for name in requested or []:
            if name not in sources:
                known = ", ".join(sources)
                raise DataError(f"this model has no stem {name!r}: give some of {known}")
        names = [source for source in sources if requested is None or source in requested]
        if self.two_stems:
            names.append(f"no_{self.two_stems}")
        return names + ["residual"] * self.residual

    def take(self, estimates: Audio, sources: Sequence[str], mixture: Audio | None) -> Audio:
        """Compute the stems from estimates.

        Args:
            estimates: Waveforms, shape (S, C, n).
            sources: Their names.
            mixture: The mixture, shape (C, n); only the residual needs it.

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
    """A folder of audio files, one per stem, written block by block.

    Blocks are appended to temporary 32-bit float WAVs. When all are complete, they are encoded
    and moved to their final names.

    Args:
        folder: Folder of the files; created if necessary.
        stems: Names of the stems.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        force: Overwrite existing files.
        encoding: Format of the files; by default 32-bit float WAV, which does not clip.
        tags: Title, artist and others, by soundfile's names.

    Attributes:
        gain: Factor applied to all stems against clipping, known on exit.

    Raises:
        FileExistsError: A file exists and ``force`` is not given.
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
        self.folder, self.stems = folder, stems
        self.sample_rate, self.channels = sample_rate, channels
        self.encoding, self.tags = encoding or Encoding(), tags or {}
        self.gain, self._peak = 1.0, 0.0
        if not force:
            self.check_free(folder, stems, self.encoding)
        self._temporary = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")

    @staticmethod
    def check_free(folder: Path, stems: Sequence[str], encoding: Encoding) -> None:
        """Raise ``FileExistsError`` if a file of these stems exists."""
        for path in encoding.files(folder, stems):
            if path.exists():
                raise FileExistsError(
                    f"{path} already exists; give --force to overwrite it, --resume to skip "
                    "finished songs, or another folder"
                )

    def __enter__(self) -> StemFiles:
        self._temporary.mkdir(parents=True, exist_ok=True)
        self._paths = {name: self._temporary / f".{name}.wav" for name in self.stems}
        size = {"samplerate": self.sample_rate, "channels": self.channels}
        self._files = [
            # RF64, since WAV is limited to 4 GiB.
            soundfile.SoundFile(path, "w", **size, subtype="FLOAT", format="RF64")
            for path in self._paths.values()
        ]
        return self

    def write(self, stems: Audio) -> None:
        """Append a block of waveforms, shape (stems, C, n)."""
        self._peak = max(self._peak, float(np.abs(stems).max(initial=0)))
        for file, stem in zip(self._files, stems, strict=True):
            file.write(stem.T)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            for file in self._files:
                file.close()
            if error is None:
                self.gain = self.encoding.gain(self._peak)
                finished = self.encoding.files(self.folder, self.stems)
                encoded = [self._temporary / path.name for path in finished]
                self.encoding.write(self._paths, encoded, self.gain, self.tags)
                self.folder.mkdir(parents=True, exist_ok=True)
                for path, final in zip(encoded, finished, strict=True):
                    path.replace(final)
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)


@dataclass(frozen=True)
class Separated:
    """Result of the separation of a file.

    Attributes:
        gain: Factor applied to all stems against clipping; 1 if there was none.
        shortfall: What is missing of the song, with the declared and the read length; None if it
            is complete. The stems hold what could be read.
    """

    gain: float
    shortfall: str | None


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
) -> Separated:
    """Separate an audio file of any length and rate, block by block.

    Args:
        model: The separator.
        song: The audio file; its tags are copied to the stems.
        folder: Folder of the stems.
        force: Overwrite existing files.
        overlap: Fraction of a chunk that is cross-faded with the next; by default the model's.
        shifts: Number of random delays to average over; by default the model's.
        postprocessing: Post-processing of the estimates; by default the model's.
        selection: Which stems to write; by default one per source.
        encoding: Format of the files; by default 32-bit float WAV.
        progress: Called with the number of samples just separated.

    Returns:
        The gain of the stems, and what is missing of the song if it is damaged.

    Raises:
        DataError: The file cannot be read or is not finite, the model has no such stem, or the
            format does not support the sample rate.
        FileExistsError: Stems exist and ``force`` is not given.
    """
    selection, encoding = selection or Selection(), encoding or Encoding()
    source = open_song(song)
    info = source.info
    encoding.check_rate(song, info.sample_rate)
    estimates = separate_stream(
        model,
        (torch.from_numpy(block).to(model.device) for block in source.blocks),
        info.sample_rate,
        overlap=model.overlap if overlap is None else overlap,
        batch_size=model.chunks_at_once,
        shifts=model.shifts if shifts is None else shifts,
        postprocessing=model.postprocessing if postprocessing is None else postprocessing,
        progress=progress,
    )
    names = selection.names(model.sources) + [MIXTURE] * encoding.is_one_file
    mixture = None
    if selection.residual or encoding.is_one_file:
        # Read again, since muting yields the first estimate after the last block.
        mixture = _Reader(open_song(song).blocks)
    done = 0
    with StemFiles(
        folder, names, info.sample_rate, info.channels, force, encoding, source.tags
    ) as files:
        for part in estimates:
            audio = part.cpu().numpy()
            if not np.isfinite(audio).all():
                raise _non_finite_error(song, info.sample_rate, done)
            done += audio.shape[-1]
            original = None if mixture is None else mixture.read(audio.shape[-1])
            stems = selection.take(audio, model.sources, original)
            if encoding.is_one_file:
                assert original is not None
                stems = np.concatenate([stems, original[None]])
            files.write(stems)
    return Separated(files.gain, source.shortfall())


def _non_finite_error(song: Path, sample_rate: int, done: int) -> DataError:
    """Return the error for non-finite estimates; the song or the model caused them."""
    position = 0
    for block in open_song(song).blocks:
        finite = np.isfinite(block).all(0)
        if not finite.all():
            return DataError(str(nan_finding(song, position + int(np.argmin(finite)), sample_rate)))
        position += block.shape[-1]
    return DataError(
        f"{song}: its estimates are NaN or infinite after {done / sample_rate:.3f} s, though the "
        "song is not; use another checkpoint"
    )


class _Reader:
    """Re-cuts blocks to any number of samples."""

    def __init__(self, blocks: Iterator[Audio]) -> None:
        self._blocks = blocks
        self._pending: list[Audio] = []

    def read(self, samples: int) -> Audio:
        """Return the next samples (C, samples)."""
        while sum(block.shape[-1] for block in self._pending) < samples:
            self._pending.append(next(self._blocks))
        joined = np.concatenate(self._pending, -1)
        self._pending = [joined[:, samples:]]
        return joined[:, :samples]

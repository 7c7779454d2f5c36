"""Estimates as audio files, written block by block and renamed once complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch

from datamodules.errors import DataError
from datamodules.files.covers import Cover
from datamodules.files.info import Audio, AudioInfo
from datamodules.files.song import open_song
from datamodules.files.source_names import check_file_names
from datamodules.files.writing import check_room, writing
from datamodules.tracks.checks import nan_finding
from datamodules.unfinished import unfinished_folder
from lightning_modules.inference.encoding import MIXTURE, Encoding
from lightning_modules.inference.selection import Selection
from lightning_modules.inference.separation import SeparationSettings, Separator, separate_stream

# Bytes of a sample in a temporary file.
_FLOAT = 4


class SeparatingModule(Separator, Protocol):
    """A separator with its own settings of separation."""

    separation_settings: SeparationSettings

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...


class StemFiles:
    """The files of a song's stems, written block by block.

    Blocks are appended to temporary 32-bit float WAVs. When all are complete, they are encoded
    and moved to their final names.

    Args:
        folder: Folder of the files and of temporary files; created if necessary.
        stems: Names of the stems.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        force: Overwrite existing files.
        encoding: Format of the files; by default 32-bit float WAV, which does not clip.
        tags: Title, artist and others, by soundfile's names.
        files: The files, below the folder; by default those of ``Encoding.files``.
        cover: Picture of the song, for formats that hold one.

    Attributes:
        gain: Factor applied to all stems against clipping, known on exit.

    Raises:
        DataError: A stem's name is not that of a file, two are equal, or a file is not in the
            folder.
        FileExistsError: A file exists and ``force`` is not given.
        DataError: A file cannot be written, for instance because the disk is full.
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
        files: Sequence[Path] | None = None,
        cover: Cover | None = None,
    ) -> None:
        check_file_names(stems, "stems")  # they come from checkpoints, which anybody can make
        self.folder, self.stems = folder, stems
        self.sample_rate, self.channels = sample_rate, channels
        self.encoding, self.tags, self.cover = encoding or Encoding(), tags or {}, cover
        self.files = files or self.encoding.files(folder, stems)
        for path in self.files:
            if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
                raise DataError(f"{path}: is not in {folder}, where stems are written; rename it")
        self.gain, self._peak = 1.0, 0.0
        if not force:
            check_free(self.files)

    def __enter__(self) -> StemFiles:
        with ExitStack() as stack:
            stack.callback(self._remove_empty_folder, self.folder.exists())
            with writing(self.files[0], self.folder / "any"):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._temporary = stack.enter_context(unfinished_folder(self.folder))
            # Numbered, since a stem's name may be as long as names can be.
            self._paths = [self._temporary / f"{number}.wav" for number in range(len(self.stems))]
            self._open = [self._create(number) for number in range(len(self.stems))]
            self._stack = stack.pop_all()
        return self

    def _create(self, number: int) -> soundfile.SoundFile:
        path, form = self._paths[number], (self.sample_rate, self.channels, "FLOAT")
        with writing(self._final(number), path):
            # RF64, since WAV is limited to 4 GiB.
            return soundfile.SoundFile(os.fsencode(path), "w", *form, format="RF64")

    def write(self, stems: Audio) -> None:
        """Append a block of waveforms, shape (stems, C, n)."""
        # Integers reach -1, but not 1.
        highest, lowest = stems.max(initial=0), stems.min(initial=0)
        self._peak = max(self._peak, float(highest), float(-lowest - self.encoding.step))
        for number, (file, stem) in enumerate(zip(self._open, stems, strict=True)):
            with writing(self._final(number), self._paths[number]):
                file.write(stem.T)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._stack:
            for number, file in enumerate(self._open):
                if error is None:
                    with writing(self._final(number), self._paths[number]):
                        file.close()
                else:
                    with suppress(soundfile.SoundFileError):
                        file.close()
            if error is None:
                self._finish()

    def _finish(self) -> None:
        self.gain = self.encoding.gain(self._peak)
        suffix = self.encoding.suffix
        numbers = range(len(self.files))
        encoded = [self._temporary / f"encoded-{number}.{suffix}" for number in numbers]
        sources = dict(zip(self.stems, self._paths, strict=True))
        self.encoding.write(sources, encoded, self.gain, self.tags, self.files, self.cover)
        for path, final in zip(encoded, self.files, strict=True):
            with writing(final, path):
                final.parent.mkdir(parents=True, exist_ok=True)
                path.replace(final)

    def _remove_empty_folder(self, is_kept: bool) -> None:
        with suppress(OSError):
            if not is_kept:
                self.folder.rmdir()

    def _final(self, number: int) -> Path:
        """File of a stem, for messages."""
        return self.files[min(number, len(self.files) - 1)]


def check_free(files: Sequence[Path]) -> None:
    """Raise ``FileExistsError`` if one of the files exists."""
    existing = [path for path in files if os.path.lexists(path)]
    if existing:
        others = f" and {len(existing) - 1} more already exist" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]}{others or ' already exists'}; give --force to "
            "overwrite, --resume to skip finished songs, or another folder"
        )


def temporary_size(info: AudioInfo, stems: int, encoding: Encoding) -> int:
    """Size of the temporary files while a song is separated, bytes."""
    return _FLOAT * info.samples * info.channels * (stems + encoding.is_one_file)


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
    selection: Selection | None = None,
    encoding: Encoding | None = None,
    files: Sequence[Path] | None = None,
    downmix: bool = False,
    progress: Callable[[int], None] = lambda samples: None,
    settings: SeparationSettings | None = None,
) -> Separated:
    """Separate an audio file of any length and rate, block by block.

    Args:
        model: The separator.
        song: The audio file; its tags and cover are copied to the stems.
        folder: Folder of the stems and of temporary files.
        force: Overwrite existing files.
        selection: Which stems to write; by default one per source.
        encoding: Format of the files; by default 32-bit float WAV.
        files: Files of the stems below ``folder``; by default those of ``Encoding.files``.
        downmix: Mix more than two channels down to stereo first.
        progress: Called with the number of samples just separated.
        settings: Settings of separation; by default the model's.

    Returns:
        The gain of the stems, and what is missing of the song if it is damaged.

    Raises:
        DataError: The file cannot be read or is not finite, the model has no such stem, the
            format does not support the sample rate, or the disk is full.
        FileExistsError: Stems exist and ``force`` is not given.
    """
    selection, encoding = selection or Selection(), encoding or Encoding()
    source = open_song(song, downmix=downmix)
    info = source.info
    encoding.check(song, info)
    estimates = separate_stream(
        model,
        (torch.from_numpy(block).to(model.device) for block in source.blocks),
        info.sample_rate,
        settings or model.separation_settings,
        progress,
    )
    stems = selection.names(model.sources)
    needed = temporary_size(info, len(stems), encoding) + encoding.size(info, len(stems))
    check_room(folder, needed, f"{song}: its stems need")
    names = stems + [MIXTURE] * encoding.is_one_file
    mixture = None
    if selection.needs_mixture(model.sources) or encoding.is_one_file:
        # Read again, since muting yields the first estimate after the last block.
        mixture = _Reader(open_song(song, downmix=downmix).blocks)
    done, cover = 0, source.cover if encoding.has_cover else None
    with StemFiles(
        folder, names, info.sample_rate, info.channels, force, encoding, source.tags, files, cover
    ) as output:
        for part in estimates:
            audio = part.cpu().numpy()
            if not np.isfinite(audio).all():
                raise _non_finite_error(song, info.sample_rate, done)
            done += audio.shape[-1]
            if selection.needs_mixture(model.sources):
                audio = encoding.rounded(audio)  # then stem and rest add up without rounding
            original = None if mixture is None else mixture.read(audio.shape[-1])
            waveforms = selection.take(audio, model.sources, original)
            if encoding.is_one_file:
                assert original is not None
                waveforms = np.concatenate([waveforms, original[None]])
            output.write(waveforms)
    return Separated(output.gain, source.shortfall())


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

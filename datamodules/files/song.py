"""Reading songs from front to end, as players do: whatever their headers declare.

soundfile reads uncompressed formats. ffmpeg reads compressed ones to their end, which libsndfile
does not: it stops at a length that the header may only estimate, and at the first damage. Without
ffmpeg, soundfile reads FLAC, Ogg and MP3 as well. Each decoder removes the delay and padding of the
encoder by its own rules, so lengths may differ by some thousand samples from other programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.errors import DataError, counted
from datamodules.files import ffmpeg
from datamodules.files.audio import (
    NO_LENGTH,
    UnknownFormatError,
    declared_samples,
    open_sound_file,
    sound_file_blocks,
    sound_file_info,
)
from datamodules.files.covers import Cover, read_cover
from datamodules.files.info import AnyPath, Audio, AudioInfo
from datamodules.files.mp3 import read_mp3
from datamodules.files.pipes import seekable
from datamodules.files.tags import probe_tags, tags_of

_COMPRESSED = ("FLAC", "OGG", "MP3")
# Declared lengths of lossy formats contain delay and padding of the encoder.
_PADDING_SAMPLES = 2500


class Song:
    """An open audio file, read from front to end.

    Attributes:
        info: Its header; the length may be an estimate, or 0 if the header declares none.
        blocks: Consecutive parts of the waveform in new memory, nominally in [-1, 1], shape
            (C, T). They end at damage, with a ``DataError`` only if no sample could be read.
    """

    def __init__(self, path: Path, source: Path, opened: _Opened, decoded: Iterator[Audio]) -> None:
        self.info = opened.info
        self._path, self._source, self._opened, self._read = path, source, opened, _Read()
        self.blocks = _counted(decoded, self._read, source, path)

    @cached_property
    def tags(self) -> dict[str, str]:
        """Title, artist and others, by soundfile's names; only those present."""
        return probe_tags(self._source) if self._opened.tags is None else self._opened.tags

    @cached_property
    def cover(self) -> Cover | None:
        """Picture of the song, if it has one."""
        return read_cover(self._source)

    def shortfall(self) -> str | None:
        """What is missing of the song, with the declared and the read length; None if nothing is.

        Valid when ``blocks`` is exhausted. A song that declares no length is complete.
        """
        missing = self._opened.declared - self._read.samples
        if missing <= self._opened.tolerance and not self._read.damage:
            return None
        declared = self._seconds(self._opened.declared) if self._opened.declared else "no length"
        found = self._seconds(self._read.samples)
        return (
            f"{self._path}: declares {declared}, {found} could be read: "
            f"{self._read.damage or 'truncated or damaged'}; copy or download it again"
        )

    def _seconds(self, samples: int) -> str:
        return f"{counted(samples, 'sample')} ({samples / self.info.sample_rate:.2f} s)"


@dataclass(slots=True)
class _Read:
    """How many samples were read of a song, and why no more could be read."""

    samples: int = 0
    damage: str = ""


def _counted(decoded: Iterator[Audio], read: _Read, source: Path, path: Path) -> Iterator[Audio]:
    # Not a method of Song: with a cycle of references the file would not be closed at once.
    try:
        with _named(source, path):
            for block in decoded:
                read.samples += block.shape[-1]
                yield block
    except DataError as error:
        if not read.samples:
            raise
        read.damage = str(error).removeprefix(f"{path}: ").partition(";")[0]


def inspect_song(path: AnyPath, downmix: bool = False) -> AudioInfo:
    """Read the header of a song; arguments and errors are those of `open_song`."""
    return open_song(path, downmix=downmix).info


def open_song(path: AnyPath, block_samples: int | None = None, downmix: bool = False) -> Song:
    """Open a song for its header, its tags and its samples.

    Args:
        path: The file, of any format that soundfile or ffmpeg reads, or a pipe.
        block_samples: Length of a block, samples; by default 30 seconds.
        downmix: Mix more than two channels down to stereo, by ffmpeg, as ITU-R BS.775 does: centre
            and surrounds at -3 dB, without the low-frequency effects.

    Returns:
        Header, tags and an iterator over the samples.

    Raises:
        DataError: The file is missing, empty or not audio.
        FFmpegMissingError: ffmpeg is needed to read it, and is not installed.
    """
    path = Path(path)
    source = seekable(path)
    with _named(source, path):
        opened = _open(source)
        if downmix and opened.info.channels > 2:
            opened = _in_stereo(path, opened)
    length = block_samples or 30 * opened.info.sample_rate
    if opened.file is None:
        decoded = ffmpeg.decoded_blocks(source, opened.info, length)
    else:
        decoded = sound_file_blocks(source, opened.file, length)
    return Song(path, source, opened, decoded)


@dataclass(frozen=True)
class _Opened:
    """A file's header.

    Attributes:
        info: Its header.
        tags: Its tags; None if ffprobe is to read them.
        declared: Length that the file declares, samples; 0 if none.
        tolerance: How much longer that may be than what a complete file decodes to, samples.
        file: The file, if soundfile decodes it.
    """

    info: AudioInfo
    tags: dict[str, str] | None
    declared: int
    tolerance: int = _PADDING_SAMPLES
    file: Any = None


def _open(path: Path) -> _Opened:
    try:
        file = open_sound_file(path)
    except UnknownFormatError:
        info = ffmpeg.inspect_streams(path)[0]
        return _Opened(info, None, info.samples)
    try:
        opened = _open_sound_file(path, file)
    except BaseException:
        file.close()
        raise
    if opened.file is None:
        file.close()
    return opened


def _in_stereo(path: Path, opened: _Opened) -> _Opened:
    """Let ffmpeg decode a file, to two channels."""
    if opened.file is not None:
        opened.file.close()
    ffmpeg.require_ffmpeg(f"{path}: has {opened.info.channels} channels; mixing them down")
    return replace(opened, info=replace(opened.info, channels=2), file=None)


def _open_sound_file(path: Path, file: Any) -> _Opened:
    info, declared = sound_file_info(path, file), file.frames
    tags = None if file.format == "RAW" else tags_of(file)  # RAW: the header is unfinished
    if file.format not in _COMPRESSED:
        # MP3 in a WAV file, as recorders write it.
        tolerance = _PADDING_SAMPLES if file.subtype.startswith("MPEG") else 0
        return _Opened(info, tags, declared_samples(path, file), tolerance, file)
    if file.format == "MP3":
        counted, declared = read_mp3(path)
        info = replace(info, samples=counted or info.samples)
    if info.samples >= NO_LENGTH:
        info, declared = replace(info, samples=0), 0
    if shutil.which("ffmpeg"):
        return _Opened(info, tags, declared, 0 if file.format == "FLAC" else _PADDING_SAMPLES)
    if not info.samples or file.frames < info.samples - _PADDING_SAMPLES:
        ffmpeg.require_ffmpeg(f"{path}: does not declare its length; reading it to its end")
    return _Opened(info, tags, declared, _PADDING_SAMPLES, file)


@contextmanager
def _named(source: Path, path: Path) -> Iterator[None]:
    """Name a pipe in errors instead of its temporary copy."""
    try:
        yield
    except DataError as error:
        if source == path:
            raise
        raise type(error)(str(error).replace(str(source), str(path))) from error

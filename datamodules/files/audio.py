"""Reading audio files, with errors that tell users what to do.

soundfile reads WAV, FLAC, Ogg and MP3, and can start at any sample. ffmpeg decodes all other
formats and is needed only for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.errors import DataError
from datamodules.files import ffmpeg
from datamodules.files.info import AnyPath as AnyPath
from datamodules.files.info import Audio as Audio
from datamodules.files.info import AudioInfo as AudioInfo
from datamodules.files.info import check_opens
from datamodules.files.tags import probe_tags, tags_of
from datamodules.files.wav import read_wav_header

# Length of a FLAC frame by most encoders.
_PART_SAMPLES = 4096
_CONVERT = "convert it, for instance by: ffmpeg -i OLD NEW.wav"


class _UnknownFormatError(DataError):
    """soundfile does not read the file's format."""


class Song:
    """An open audio file, read from front to end like a player does.

    Attributes:
        info: Its header; the length may be an estimate, or 0 if the header declares none.
        tags: Title, artist and others, by soundfile's names; only those present.
        blocks: Consecutive parts of the waveform, nominally in [-1, 1], shape (C, T). They end at
            damage, with a ``DataError`` only if no sample could be read.
    """

    def __init__(
        self, path: Path, info: AudioInfo, tags: dict[str, str], decoded: Iterator[Audio]
    ) -> None:
        self._path, self.info, self.tags = path, info, tags
        self._read = _Read()
        self.blocks = _counted(decoded, self._read)

    def shortfall(self) -> str | None:
        """What is missing of the song, with both lengths; None if it is complete.

        Valid when ``blocks`` is exhausted.
        """
        missing = self.info.samples - self._read.samples
        # Some containers estimate their length.
        if not self._read.damage and missing < self.info.sample_rate:
            return None
        declared, found = (
            f"{samples} samples ({samples / self.info.sample_rate:.2f} s)"
            for samples in (self.info.samples, self._read.samples)
        )
        reason = self._read.damage or "it is truncated or damaged"
        return (
            f"{self._path}: declares {declared}, {found} could be read ({reason}); copy or "
            "download it again"
        )


@dataclass(slots=True)
class _Read:
    """How many samples were read of a song, and why no more could be read."""

    samples: int = 0
    damage: str = ""


def _counted(decoded: Iterator[Audio], read: _Read) -> Iterator[Audio]:
    # Not a method of Song: with a cycle of references the file would not be closed at once.
    try:
        for block in decoded:
            read.samples += block.shape[-1]
            yield block
    except DataError as error:
        if not read.samples:
            raise
        read.damage = str(error.__cause__ or error)


def inspect(path: AnyPath) -> AudioInfo:
    """Read the header of an audio file and check that the file is complete.

    Args:
        path: The file, of any format that soundfile or ffmpeg reads.

    Returns:
        Length, rate, channels and encoding (of the first audio stream).

    Raises:
        DataError: The file is missing, empty, truncated or not audio.
        FFmpegMissingError: ffmpeg is needed to read it, and is not installed.
    """
    try:
        return inspect_seekable(path)
    except _UnknownFormatError:
        return ffmpeg.inspect_streams(path)[0]


def inspect_seekable(path: AnyPath) -> AudioInfo:
    """Like `inspect`, for the formats that soundfile reads: `read` can start anywhere in them."""
    path = Path(path)
    with _open(path) as file:
        return _inspect_open_file(path, file)


def read(path: AnyPath, start: int = 0, samples: int | None = None) -> Audio:
    """Read a part of a file.

    Args:
        path: The file, of a format that soundfile reads.
        start: First sample.
        samples: Number of samples; by default up to the end. A part that exceeds the end of the
            file is shorter, not padded.

    Returns:
        Waveform, nominally in [-1, 1], shape (C, T).

    Raises:
        DataError: The file is missing, damaged in this part, or of another format.
    """
    path = Path(path)
    with _open(path) as file:
        start = min(start, file.frames)
        count = file.frames - start
        if samples is not None:
            count = min(count, samples)
        try:
            file.seek(start)
            audio = file.read(count, dtype="float32", always_2d=True)
            reason = "unexpected end"
        except soundfile.SoundFileError as error:
            audio, reason = np.empty((0, file.channels), np.float32), str(error)
        if len(audio) < count:
            rate = file.samplerate
            raise DataError(
                f"{path}: damaged between {start / rate:.2f} s and {(start + count) / rate:.2f} "
                f"s: {len(audio)} of {count} samples could be read ({reason}); copy or download "
                "it again"
            )
    return np.ascontiguousarray(audio.T)


def blocks(path: AnyPath, block_samples: int) -> Iterator[Audio]:
    """Read a file block by block, in bounded memory; the call itself checks the header.

    Args:
        path: The file, of any format that soundfile or ffmpeg reads.
        block_samples: Length of a block, samples; the last one may be shorter.

    Returns:
        Waveforms, nominally in [-1, 1], shape (C, block_samples).

    Raises:
        DataError: Like `open_song`; also, after the last block, if samples are missing.
    """
    song = open_song(path, block_samples)

    def complete() -> Iterator[Audio]:
        yield from song.blocks
        if fault := song.shortfall():
            raise DataError(fault)

    return complete()


def open_song(path: AnyPath, block_samples: int | None = None) -> Song:
    """Open a file once for its header, its tags and its samples.

    Args:
        path: The file, of any format that soundfile or ffmpeg reads.
        block_samples: Length of a block, samples; by default 30 seconds.

    Returns:
        Checked header, tags and an iterator over the samples.

    Raises:
        DataError: The file is missing, empty, truncated or not audio.
        FFmpegMissingError: ffmpeg is needed to read it, and is not installed.
    """
    path = Path(path)
    try:
        file = _open(path)
    except _UnknownFormatError:
        info = ffmpeg.inspect_streams(path)[0]
        length = block_samples or 30 * info.sample_rate
        return Song(path, info, probe_tags(path), ffmpeg.decoded_blocks(path, info, length))
    try:
        info = _inspect_open_file(path, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    length = block_samples or 30 * info.sample_rate
    return Song(path, info, tags_of(file), _soundfile_blocks(path, file, length))


def rewrite(path: AnyPath, target: Path, subtype: str) -> None:
    """Write a file's samples as WAV; ``subtype`` is soundfile's name, such as ``PCM_16``."""
    with _open(Path(path)) as source:
        # 16-bit samples are copied as integers, without rounding.
        dtype = "int16" if subtype == source.subtype == "PCM_16" else "float32"
        with soundfile.SoundFile(
            target, "w", source.samplerate, source.channels, subtype, format="WAV"
        ) as copy:
            while len(block := source.read(2**18, dtype=dtype, always_2d=True)):
                copy.write(block)
            if len(copy) < source.frames:
                raise DataError(
                    f"{path}: damaged near {len(copy) / source.samplerate:.2f} s; copy or "
                    "download it again"
                )


def _inspect_open_file(path: Path, file: Any) -> AudioInfo:
    if file.format in ("WAV", "WAVEX", "RF64"):
        # libsndfile does not compare the declared and the present number of bytes.
        header = read_wav_header(path)
        if header and header.declared is not None and header.present < header.declared:
            raise DataError(
                f"{path}: declares {header.declared} bytes of samples, the file has "
                f"{header.present}: it is truncated; copy or download it again"
            )
    samples, rate = file.frames, file.samplerate
    if samples == 0:
        raise DataError(
            f"{path}: holds no samples, expected audio; export it again (if its header is "
            "unfinished after a recording or a pipe: ffmpeg -i OLD NEW.wav repairs it)"
        )
    # libsndfile returns the largest integer if a FLAC stream does not declare its length.
    if samples >= 2**62:
        raise DataError(
            f"{path}: its header does not declare its length (it was written to a pipe), which "
            f"random access needs; {_CONVERT}"
        )
    # A truncated FLAC or MP3 still declares its former length. The length of an MP3 may be off by a
    # frame or two, so any sample of its last second suffices.
    start = max(0, samples - (rate if file.format == "MP3" else 1))
    try:
        file.seek(start)
        found = len(file.read(1))
    except soundfile.SoundFileError:
        found = 0
    if not found:
        raise DataError(
            f"{path}: declares {samples} samples ({samples / rate:.2f} s), but its end cannot "
            "be read: it is truncated or damaged; copy or download it again"
        )
    return AudioInfo(samples, rate, file.channels, file.subtype)


def _open(path: Path) -> Any:
    try:
        return soundfile.SoundFile(path)
    # TypeError: soundfile expects a format for names that end in .raw.
    except (soundfile.SoundFileError, TypeError, UnicodeError) as error:
        check_opens(path)
        raise _UnknownFormatError(
            f"{path}: is not audio that soundfile can read ({str(error).rpartition(': ')[2]}); "
            f"WAV, FLAC, Ogg or MP3 was expected; if it is audio, {_CONVERT}"
        ) from error


def _soundfile_blocks(path: Path, file: Any, block_samples: int) -> Iterator[Audio]:
    block = np.empty((block_samples, file.channels), np.float32)
    filled = 0
    with file:
        try:
            # In short parts, since an error loses all samples of the part.
            while part := len(file.read(out=block[filled : filled + _PART_SAMPLES])):
                filled += part
                if filled == block_samples:
                    yield block.T.copy()
                    filled = 0
            error = None
        except soundfile.SoundFileError as caught:
            error = caught
    if filled:
        yield block[:filled].T.copy()
    if error:
        raise DataError(f"{path}: damaged ({error}); copy or download it again") from error

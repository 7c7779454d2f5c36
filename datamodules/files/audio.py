"""Random access to audio files, strict: a file must have the length that it declares.

For the files of data sets, in the formats that soundfile reads: WAV, FLAC, Ogg, MP3 and others.
`song.open_song` reads all formats from front to end, and what there is of a damaged file.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from datamodules.command_line import program
from datamodules.errors import DataError, counted
from datamodules.files import c_messages
from datamodules.files.info import AnyPath as AnyPath
from datamodules.files.info import Audio as Audio
from datamodules.files.info import AudioInfo as AudioInfo
from datamodules.files.info import check_opens
from datamodules.files.mp3 import read_mp3
from datamodules.files.wav import WavHeader, read_wav_header

# libsndfile returns the largest integer if a FLAC stream does not declare its length.
NO_LENGTH = 2**62
# Length of a FLAC frame by most encoders.
_PART_SAMPLES = 4096
# Delay and padding of an MP3's encoder, samples.
_MP3_PADDING_SAMPLES = 2500
_WAV_FORMATS = ("WAV", "WAVEX", "RF64")
# (tag, bits) in a WAV's header -> soundfile's name of the encoding.
_SUBTYPES = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
# libsndfile's log: samples that an AIFF declares; bytes that an AU declares and has.
_AIFF_SAMPLES = re.compile(r"Frames +: (\d+)")
_AU_BYTES = re.compile(r"Data Size +: (\d+) \(should be (\d+)\)")
_AGAIN = "copy or download it again"
_CONVERT = "convert it, for instance by: ffmpeg -i OLD NEW.wav"
_KEEP = f"{_AGAIN}, or keep what there is, by: ffmpeg -i OLD NEW.wav"


class UnknownFormatError(DataError):
    """soundfile does not read the file's format."""


def inspect_seekable(path: AnyPath) -> AudioInfo:
    """Read the header of an audio file and check that the file is complete.

    Args:
        path: The file, of a format that soundfile reads.

    Returns:
        Length, rate, channels and encoding.

    Raises:
        DataError: The file is missing, empty, truncated, not audio, or of unknown length.
    """
    path = Path(path)
    with open_sound_file(path) as file:
        return _check_complete(path, file)


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
    with open_sound_file(path) as file, c_messages.hidden():
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
        path: The file, of a format that soundfile reads.
        block_samples: Length of a block, samples; the last one may be shorter.

    Returns:
        Waveforms in new memory, nominally in [-1, 1], shape (C, block_samples).

    Raises:
        DataError: As `inspect_seekable`; also, when blocks are read, at damage.
    """
    path = Path(path)
    file = open_sound_file(path)
    try:
        samples = _check_complete(path, file).samples
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return _complete(path, sound_file_blocks(path, file, block_samples), samples)


def _complete(path: Path, parts: Iterator[Audio], samples: int) -> Iterator[Audio]:
    for part in parts:
        samples -= part.shape[-1]
        yield part
    if samples > 0:
        raise DataError(
            f"{path}: ends {counted(samples, 'sample')} before its declared end; {_AGAIN}"
        )


def rewrite(path: AnyPath, target: Path, subtype: str) -> None:
    """Write a file's samples as WAV; ``subtype`` is soundfile's name, such as ``PCM_16``."""
    with open_sound_file(Path(path)) as source:
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


def open_sound_file(path: Path) -> soundfile.SoundFile:
    """Open a file with soundfile; if a WAV's header is unfinished, up to the end of the file.

    Raises:
        UnknownFormatError: soundfile does not read the format.
        DataError: The file is missing, empty or cannot be opened.
    """
    try:
        header = read_wav_header(path)
        if header and header.declared is None and (header.tag, header.bits) in _SUBTYPES:
            return _UnfinishedWav(path, header)
        with c_messages.hidden():
            return soundfile.SoundFile(os.fsencode(path))  # names need not be UTF-8
    # TypeError: soundfile expects a format for names that end in .raw.
    except (soundfile.SoundFileError, OSError, TypeError, UnicodeError) as error:
        check_opens(path)
        raise UnknownFormatError(
            f"{path}: is not audio that soundfile can read ({str(error).rpartition(': ')[2]}); "
            f"WAV, FLAC, Ogg or MP3 was expected; if it is audio, {_CONVERT}"
        ) from error


def sound_file_info(path: Path, file: soundfile.SoundFile) -> AudioInfo:
    """Header of an open file; raises a ``DataError`` if it holds no samples."""
    if file.frames == 0:
        raise DataError(f"{path}: holds no samples, expected audio; export it again")
    return AudioInfo(file.frames, file.samplerate, file.channels, file.subtype)


def declared_samples(path: Path, file: soundfile.SoundFile) -> int:
    """Length that an uncompressed file declares, also if it ends early; libsndfile corrects it."""
    samples: int = file.frames
    if file.format in _WAV_FORMATS:
        header = read_wav_header(path)
        if header and header.declared is not None and header.is_truncated:
            return header.declared // max(1, header.present // samples)
    elif match := _AIFF_SAMPLES.search(file.extra_info):
        return max(samples, int(match[1]))
    elif match := _AU_BYTES.search(file.extra_info):
        return int(match[1]) // max(1, int(match[2]) // samples)
    return samples


def sound_file_blocks(path: Path, file: soundfile.SoundFile, block_samples: int) -> Iterator[Audio]:
    """Read an open file block by block and close it; raise a ``DataError`` at damage."""
    block = np.empty((block_samples, file.channels), np.float32)
    filled, error = 0, None
    with file:
        try:
            # In short parts, since an error loses all samples of the part.
            while part := _read_into(file, block[filled : filled + _PART_SAMPLES]):
                filled += part
                if filled == block_samples:
                    yield block.T.copy()
                    filled = 0
        except soundfile.SoundFileError as caught:
            error = caught
    if filled:
        yield block[:filled].T.copy()
    if error:
        raise DataError(f"{path}: the decoder reports damage ({error}); {_AGAIN}") from error


def _read_into(file: soundfile.SoundFile, target: Audio) -> int:
    with c_messages.hidden():
        return len(file.read(out=target))


class _Tail(io.FileIO):
    """A file from a position on."""

    def __init__(self, path: Path, start: int) -> None:
        super().__init__(path)
        self._start = start
        self.seek(0)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        offset = self._start if whence == os.SEEK_SET else 0
        return super().seek(position + offset, whence) - self._start

    def tell(self) -> int:
        return super().tell() - self._start


class _UnfinishedWav(soundfile.SoundFile):
    """A WAV whose header does not declare a length: all bytes after the header are samples."""

    def __init__(self, path: Path, header: WavHeader) -> None:
        self._tail = _Tail(path, header.offset)
        super().__init__(
            self._tail,
            "r",
            header.sample_rate,
            header.channels,
            _SUBTYPES[header.tag, header.bits],
            header.order.upper(),
            "RAW",
        )

    def close(self) -> None:
        super().close()
        self._tail.close()


def _check_complete(path: Path, file: soundfile.SoundFile) -> AudioInfo:
    info = sound_file_info(path, file)
    if file.format in _WAV_FORMATS:
        # libsndfile does not compare the declared and the present number of bytes.
        header = read_wav_header(path)
        if header and header.is_truncated:
            raise DataError(
                f"{path}: declares {header.declared} bytes of samples, the file has "
                f"{header.present}: it is truncated; {_KEEP}"
            )
    if info.samples >= NO_LENGTH:
        raise DataError(
            f"{path}: its header does not declare its length (it was written to a pipe), which "
            f"random access needs; repair it by {program('datamodules.convert')}, or by: "
            "ffmpeg -i OLD NEW.flac"
        )
    if file.format == "MP3":
        counted = read_mp3(path).counted
        if abs(counted - info.samples) > _MP3_PADDING_SAMPLES:
            raise DataError(
                f"{path}: its header declares or suggests {info.samples} samples, its frames hold "
                f"about {counted}, expected the same; copy or download it again if it is "
                "truncated, else repair it, by: ffmpeg -i OLD NEW.mp3"
            )
    # A truncated FLAC or MP3 still declares its former length. The length of an MP3 may be off by a
    # frame or two, so any sample of its last second suffices.
    start = max(0, info.samples - (info.sample_rate if file.format == "MP3" else 1))
    try:
        file.seek(start)
        found = _read_into(file, np.empty((1, info.channels), np.float32))
    except soundfile.SoundFileError:
        found = 0
    if not found:
        raise DataError(
            f"{path}: declares {info.samples} samples ({info.samples / info.sample_rate:.2f} s), "
            f"but its end cannot be read: it is truncated or damaged; {_KEEP}"
        )
    return info

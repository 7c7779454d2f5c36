"""Reading audio files, with errors that a user can act on.

WAV, FLAC, Ogg and MP3 are read by soundfile, which can start anywhere; all other formats are
decoded by ffmpeg, which is needed for them only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files.tags import probe_tags, tags_of
from datamodules.files.wav import read_wav_header

Audio = npt.NDArray[np.float32]
AnyPath = str | PathLike[str]

# A decoder may drop up to one frame at the end of a stream; this is the longest one (HE-AAC).
_AAC_FRAME_SAMPLES = 2048
_CONVERT = "convert it, for instance by: ffmpeg -i OLD NEW.wav"


class _UnknownFormatError(DataError):
    """soundfile does not read the file's format."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Header of an audio file.

    Attributes:
        samples: Length, samples per channel. For formats read by ffmpeg it is what the container
            declares: sometimes a few samples off, 0 if it declares none.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
        subtype: Encoding, such as ``PCM_16`` or ``FLOAT``; ffmpeg's name of the codec for formats
            read by ffmpeg.
    """

    samples: int
    sample_rate: int
    channels: int
    subtype: str


@dataclass(frozen=True, slots=True)
class Song:
    """An open audio file.

    Attributes:
        info: Its header.
        tags: Title, artist and others, by soundfile's names; only those present.
        blocks: Consecutive parts of the waveform, nominally in [-1, 1], shape (C, T).
    """

    info: AudioInfo
    tags: dict[str, str]
    blocks: Iterator[Audio]


def require_ffmpeg(purpose: str) -> None:
    """Check that ffmpeg and ffprobe are installed.

    Args:
        purpose: What needs them; the subject of the error message.

    Raises:
        FFmpegMissingError: One of them is not on PATH.
    """
    missing = [program for program in ("ffmpeg", "ffprobe") if shutil.which(program) is None]
    if missing:
        raise FFmpegMissingError(
            f"{purpose} needs ffmpeg and ffprobe, but {' and '.join(missing)} was not found on "
            "PATH; install the package ffmpeg: `apt install ffmpeg` (Debian, Ubuntu), "
            "`conda install -c conda-forge ffmpeg` or `brew install ffmpeg`"
        )


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
        return inspect_streams(path)[0]


def inspect_seekable(path: AnyPath) -> AudioInfo:
    """Like `inspect`, for the formats in which `read` can start anywhere.

    Args:
        path: The file, of a format that soundfile reads.

    Returns:
        Length, rate, channels and encoding.

    Raises:
        DataError: The file is missing, empty, truncated, or of another format.
    """
    path = Path(path)
    with _open(path) as file:
        return _inspect_open_file(path, file)


def inspect_streams(path: AnyPath) -> list[AudioInfo]:
    """Read the headers of all audio streams of a file through ffprobe.

    Args:
        path: A file of any format that ffmpeg reads.

    Returns:
        One entry per stream, at least one.

    Raises:
        DataError: The file holds no audio that ffmpeg can read.
        FFmpegMissingError: ffmpeg is not installed.
    """
    path = Path(path)
    _check_opens(path)
    require_ffmpeg(f"{path}: is not WAV, FLAC, Ogg or MP3; reading another format")
    fields = "stream=codec_name,sample_rate,channels,duration_ts,time_base:format=duration"
    command = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", fields]
    answer = subprocess.run(
        [*command, "-of", "json", f"file:{path}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    content = {} if answer.returncode else json.loads(answer.stdout)
    streams = [stream for stream in content.get("streams", []) if int(stream.get("sample_rate", 0))]
    if not streams:
        reason = _last_line(answer.stderr) or "no audio stream in it"
        raise DataError(
            f"{path}: is not audio that soundfile or ffmpeg can read ({reason}); check that it "
            "is an audio file, and copy or download it again"
        )
    return [_stream_info(stream, content.get("format", {})) for stream in streams]


def read(path: AnyPath, start: int = 0, samples: int | None = None) -> Audio:
    """Read a part of a file.

    Args:
        path: The file, of a format that soundfile reads.
        start: First sample.
        samples: Number of samples; by default up to the end. Past the end of the file the result
            is shorter, not padded.

    Returns:
        Waveform, nominally in [-1, 1], shape (C, T).

    Raises:
        DataError: The file is missing, damaged within the part, or of another format.
    """
    path = Path(path)
    with _open(path) as file:
        start = min(start, file.frames)
        wanted = file.frames - start
        if samples is not None:
            wanted = min(wanted, samples)
        try:
            file.seek(start)
            audio = file.read(wanted, dtype="float32", always_2d=True)
            reason = "unexpected end"
        except soundfile.SoundFileError as error:
            audio, reason = np.empty((0, file.channels), np.float32), str(error)
        if len(audio) < wanted:
            rate = file.samplerate
            raise DataError(
                f"{path}: damaged between {start / rate:.2f} s and {(start + wanted) / rate:.2f} "
                f"s: {len(audio)} of {wanted} samples could be read ({reason}); copy or download "
                "it again"
            )
    return np.ascontiguousarray(audio.T)


def blocks(path: AnyPath, block_samples: int) -> Iterator[Audio]:
    """Read a file block by block, in bounded memory.

    The header is checked by the call itself, before the first block is requested.

    Args:
        path: The file, of any format that soundfile or ffmpeg reads.
        block_samples: Length of a block, samples; the last one may be shorter.

    Returns:
        Waveforms, nominally in [-1, 1], shape (C, block_samples).

    Raises:
        DataError: The file is missing, empty, truncated or not audio.
        FFmpegMissingError: ffmpeg is needed to read it, and is not installed.
    """
    return open_song(path, block_samples).blocks


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
        info = inspect_streams(path)[0]
        length = block_samples or 30 * info.sample_rate
        return Song(info, probe_tags(path), _ffmpeg_blocks(path, info, length))
    try:
        info = _inspect_open_file(path, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    length = block_samples or 30 * info.sample_rate
    return Song(info, tags_of(file), _soundfile_blocks(path, file, length))


def decode_streams(path: AnyPath, targets: Sequence[Path]) -> None:
    """Decode the first audio streams of a file into float32 WAV files, in one pass.

    Args:
        path: A file of any format that ffmpeg reads.
        targets: The file to write for each stream, in the order of the streams.

    Raises:
        DataError: The file is damaged or truncated.
        FFmpegMissingError: ffmpeg is not installed.
    """
    path = Path(path)
    streams = inspect_streams(path)
    # -nostdin, so that ffmpeg does not read the terminal's keys.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", f"file:{path}"]
    for number, target in enumerate(targets):
        # All streams at the rate of the first (the mixture), as stempeg reads them.
        command += ["-map", f"0:a:{number}", "-ar", str(streams[0].sample_rate)]
        command += ["-c:a", "pcm_f32le", "-map_metadata", "-1", str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise DataError(
            f"{path}: ffmpeg could not decode it ({_last_line(done.stderr)}); copy or download "
            "it again, and check that the disk is not full"
        )
    for target, stream in zip(targets, streams, strict=False):
        # ffmpeg exits with 0 after decoding a truncated file.
        found, expected = inspect_seekable(target).samples, stream.samples
        if stream.sample_rate == streams[0].sample_rate and found < expected - _AAC_FRAME_SAMPLES:
            raise DataError(
                f"{path}: declares {expected} samples, {found} could be decoded ({target.stem}): "
                "it is truncated; copy or download it again"
            )


# ---------------------------------------------------------------- soundfile


def rewrite(path: AnyPath, target: Path, subtype: str) -> None:
    """Write a file's samples as WAV.

    Args:
        path: The file, of a format that soundfile reads.
        target: The WAV file.
        subtype: soundfile's name of the encoding, such as ``PCM_16``.

    Raises:
        DataError: The file is damaged.
    """
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
        _check_wav_is_complete(path)
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
        _check_opens(path)
        raise _UnknownFormatError(
            f"{path}: is not audio that soundfile can read ({str(error).rpartition(': ')[2]}); "
            f"WAV, FLAC, Ogg or MP3 was expected; if it is audio, {_CONVERT}"
        ) from error


def _check_opens(path: Path) -> None:
    """Find out why a file cannot be opened; decoders report all causes alike."""
    try:
        str(path).encode()
    except UnicodeError as error:
        raise DataError(f"{path}: the name is not UTF-8, which decoders need; rename it") from error
    try:
        with path.open("rb") as file:
            fault = "" if file.read(1) else "is empty (0 bytes)"
    except FileNotFoundError:
        fault = "does not exist"
    except IsADirectoryError:
        fault = "is a folder"
    except OSError as error:
        fault = f"cannot be opened ({error.strerror})"
    if fault:
        raise DataError(
            f"{path}: {fault}, expected an audio file; check the path, or copy or download the "
            "file again"
        )


def _check_wav_is_complete(path: Path) -> None:
    """Compare the declared and the present number of bytes, which libsndfile does not check."""
    header = read_wav_header(path)
    if header and header.declared is not None and header.present < header.declared:
        raise DataError(
            f"{path}: declares {header.declared} bytes of samples, the file has {header.present}: "
            "it is truncated; copy or download it again"
        )


def _soundfile_blocks(path: Path, file: Any, block_samples: int) -> Iterator[Audio]:
    with file:
        try:
            while len(block := file.read(block_samples, dtype="float32", always_2d=True)):
                yield np.ascontiguousarray(block.T)
        except soundfile.SoundFileError as error:
            raise DataError(
                f"{path}: damaged near {file.tell() / file.samplerate:.2f} s ({error}); copy or "
                "download it again"
            ) from error


# ------------------------------------------------------------------- ffmpeg


def _ffmpeg_blocks(path: Path, info: AudioInfo, block_samples: int) -> Iterator[Audio]:
    # A stream may change its channels or rate midway: ffmpeg converts to those of the header.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0"]
    command += ["-ac", str(info.channels), "-ar", str(info.sample_rate), "-f", "f32le", "-"]
    frame_bytes = 4 * info.channels
    total = 0
    with (
        tempfile.TemporaryFile() as log,  # a pipe could fill up and block ffmpeg
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            while data := process.stdout.read(block_samples * frame_bytes):
                whole = len(data) // frame_bytes
                total += whole
                block = np.frombuffer(data, "<f4", whole * info.channels)
                yield np.ascontiguousarray(block.reshape(whole, info.channels).T, np.float32)
        except BaseException:
            process.kill()  # the caller stopped early
            raise
        if process.wait() or not total:
            log.seek(0)
            raise DataError(
                f"{path}: ffmpeg could not decode it after {total / info.sample_rate:.2f} s "
                f"({_last_line(log.read()) or 'no samples'}); copy or download it again"
            )
    # Only a warning: some containers estimate their length.
    if total < info.samples - info.sample_rate:
        warnings.warn(
            f"{path}: declares {info.samples} samples, {total} could be decoded: it may be "
            "truncated; if so, copy or download it again",
            stacklevel=2,
        )


def _stream_info(stream: dict[str, Any], container: dict[str, Any]) -> AudioInfo:
    if "duration_ts" in stream:
        seconds = stream["duration_ts"] * Fraction(stream["time_base"])
    else:
        seconds = Fraction(container.get("duration", 0))
    rate = int(stream["sample_rate"])
    codec = stream.get("codec_name", "unknown")
    return AudioInfo(round(seconds * rate), rate, int(stream["channels"]), codec)


def _last_line(message: bytes) -> str:
    return message.decode(errors="replace").strip().rpartition("\n")[2]

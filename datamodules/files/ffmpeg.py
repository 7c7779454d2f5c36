"""Reading audio files with ffmpeg and ffprobe."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files.info import AnyPath, Audio, AudioInfo, check_opens

# A decoder may drop up to one frame at the end of a stream; this is the longest one (HE-AAC).
_AAC_FRAME_SAMPLES = 2048
_ESTIMATED = b"Estimating duration from bitrate"


def require_ffmpeg(purpose: str) -> None:
    """Raise if ffmpeg or ffprobe is not on PATH; ``purpose`` is the subject of the message."""
    missing = [program for program in ("ffmpeg", "ffprobe") if shutil.which(program) is None]
    if missing:
        raise FFmpegMissingError(
            f"{purpose} needs ffmpeg and ffprobe, but {' and '.join(missing)} was not found on "
            "PATH; install the package ffmpeg: `apt install ffmpeg` (Debian, Ubuntu), "
            "`conda install -c conda-forge ffmpeg` or `brew install ffmpeg`"
        )


def require_encoder(name: str, purpose: str) -> None:
    """Raise if ffmpeg is missing or was built without an encoder; see `require_ffmpeg`."""
    require_ffmpeg(purpose)
    if not re.search(rf"^ \S+ {name} ".encode(), _encoders(), re.MULTILINE):
        raise FFmpegMissingError(
            f"{purpose} needs ffmpeg with the encoder {name}, and this one was built without; "
            "install a complete build: `apt install ffmpeg` (Debian, Ubuntu) or `conda install -c "
            "conda-forge ffmpeg`, or choose another format"
        )


@cache
def _encoders() -> bytes:
    command = ["ffmpeg", "-hide_banner", "-encoders"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout


def inspect_streams(path: AnyPath) -> list[AudioInfo]:
    """Read the headers of all audio streams of a file, at least one, through ffprobe.

    Raises:
        DataError: The file contains no audio that ffmpeg can read.
        FFmpegMissingError: ffmpeg is not installed.
    """
    path = Path(path)
    check_opens(path)
    require_ffmpeg(f"{path}: is not WAV, FLAC, Ogg or MP3; reading another format")
    fields = (
        "stream=codec_name,sample_rate,channels,duration_ts,time_base,start_time"
        ":stream_tags=DURATION:format=duration,nb_streams"
    )
    content, messages = probe(path, "-select_streams", "a", "-show_entries", fields)
    streams = [stream for stream in content.get("streams", []) if int(stream.get("sample_rate", 0))]
    if not streams:
        reason = _last_line(messages) or "no audio stream in it"
        raise DataError(
            f"{path}: is not audio that soundfile or ffmpeg can read ({reason}); check that it is "
            "an audio file, and copy or download it again"
        )
    # Formats without a header, such as ADTS: the length is a guess from the first frames.
    is_declared = _ESTIMATED not in messages
    return [_stream_info(stream, content.get("format", {}), is_declared) for stream in streams]


def probe(path: Path, *options: str) -> tuple[dict[str, Any], bytes]:
    """Run ffprobe; return its answer, empty if it failed, and its messages."""
    command = ["ffprobe", "-v", "warning", *options, "-of", "json", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return {} if done.returncode else json.loads(done.stdout), done.stderr


def decode_streams(path: AnyPath, targets: Mapping[int, Path]) -> None:
    """Decode audio streams of a file, by number from 0, into float32 WAV files, in one pass."""
    path = Path(path)
    streams = inspect_streams(path)
    # -nostdin, so that ffmpeg does not read the terminal's keys.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", f"file:{path}"]
    for number, target in targets.items():
        # All streams at the rate of the first (the mixture), as stempeg reads them.
        command += ["-map", f"0:a:{number}", "-ar", str(streams[0].sample_rate)]
        command += ["-c:a", "pcm_f32le", "-map_metadata", "-1", str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise DataError(
            f"{path}: ffmpeg could not decode it ({_last_line(done.stderr)}); copy or download "
            "it again, and check that the disk is not full"
        )
    for number, target in targets.items():
        stream = streams[number]
        # ffmpeg exits with 0 after decoding a truncated file.
        found, expected = soundfile.info(target).frames, stream.samples
        if stream.sample_rate == streams[0].sample_rate and found < expected - _AAC_FRAME_SAMPLES:
            raise DataError(
                f"{path}: declares {expected} samples, {found} could be decoded ({target.stem}): "
                "it is truncated; copy or download it again"
            )


def decoded_blocks(path: Path, info: AudioInfo, block_samples: int) -> Iterator[Audio]:
    """Decode a file block by block, in bounded memory; see `audio.blocks`."""
    # A stream may change its channels or rate midway: ffmpeg converts to those of the header.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0"]
    command += ["-ac", str(info.channels), "-ar", str(info.sample_rate), "-f", "f32le", "-"]
    samples = np.empty((block_samples, info.channels), "<f4")
    total = 0
    with (
        tempfile.TemporaryFile() as log,  # a pipe could fill up and block ffmpeg
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            while size := process.stdout.readinto(samples.data.cast("B")):  # type: ignore[attr-defined]
                found = size // (4 * info.channels)
                total += found
                yield samples[:found].T.astype(np.float32, order="C")  # always a copy
        except BaseException:
            process.kill()  # the caller stopped early
            raise
        if process.wait() or not total:
            log.seek(0)
            raise DataError(
                f"{path}: ffmpeg could not decode it after {total / info.sample_rate:.2f} s "
                f"({_last_line(log.read()) or 'no samples'}); copy or download it again"
            )


def _stream_info(stream: dict[str, Any], container: dict[str, Any], is_declared: bool) -> AudioInfo:
    rate = int(stream["sample_rate"])
    codec = stream.get("codec_name", "unknown")
    seconds = _declared_seconds(stream, container) if is_declared else Fraction(0)
    return AudioInfo(round(seconds * rate), rate, int(stream["channels"]), codec)


def _declared_seconds(stream: dict[str, Any], container: dict[str, Any]) -> Fraction:
    """Length that a file declares for a stream; 0 if it declares none."""
    if "duration_ts" in stream:
        return Fraction(stream["duration_ts"]) * Fraction(stream["time_base"])
    # Matroska declares the end of a stream in a tag, such as 00:03:20.5, and that of the longest.
    end = Fraction(0)
    tag = stream.get("tags", {}).get("DURATION", "")
    if re.fullmatch(r"\d+:\d+:\d+(\.\d+)?", tag):
        for part in tag.split(":"):
            end = 60 * end + Fraction(part)
    elif container.get("nb_streams") == 1:
        end = Fraction(container.get("duration", 0))
    return max(Fraction(0), end - max(Fraction(0), Fraction(stream.get("start_time", 0))))


def _last_line(message: bytes) -> str:
    return message.decode(errors="replace").strip().rpartition("\n")[2]

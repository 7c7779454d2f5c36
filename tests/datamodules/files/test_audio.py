"""Reading audio files: exact samples, blocks of bounded size, errors with a remedy."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files import audio, ffmpeg
from datamodules.files.song import inspect_song
from tests.helpers.audio_files import RATE, convert, cut, make_noise, stream, wav_with_sizes, write


@pytest.fixture
def noise() -> audio.Audio:
    """Two seconds of 16-bit stereo noise, shape (C, T)."""
    return make_noise()


@pytest.fixture
def no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "nothing on the path"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


def assert_message(fault: pytest.ExceptionInfo[DataError], path: Path, *parts: str) -> None:
    message = str(fault.value)
    for part in (str(path), *parts):
        assert part in message


# ------------------------------------------------------------------- inspect


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_inspect_reads_the_header(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    path = write(tmp_path / f"noise.{suffix}", noise)
    assert audio.inspect_seekable(path) == audio.AudioInfo(2 * RATE, RATE, 2, "PCM_16")
    assert inspect_song(str(path)) == audio.inspect_seekable(path)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_truncated_wav(tmp_path: Path, noise: audio.Audio, form: str, subtype: str) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise.T, RATE, subtype=subtype, format=form)
    assert audio.inspect_seekable(path).samples == 2 * RATE
    declared = 2 * RATE * 2 * {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    with pytest.raises(DataError) as fault:
        audio.inspect_seekable(cut(path))
    assert_message(
        fault, path, f"declares {declared} bytes of samples", "truncated", "download it again"
    )
    found = re.search(r"the file has (\d+)", str(fault.value))
    assert found
    assert 0.5 * declared < int(found[1]) < 0.6 * declared


def test_big_endian_wav(tmp_path: Path, noise: audio.Audio) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise.T, RATE, endian="BIG", subtype="PCM_16")
    assert path.read_bytes()[:4] == b"RIFX"
    np.testing.assert_array_equal(audio.read(path), noise)
    audio.inspect_seekable(path)
    with pytest.raises(DataError, match="truncated"):
        audio.inspect_seekable(cut(path))


def test_chunks_of_odd_length_are_padded(tmp_path: Path, noise: audio.Audio) -> None:
    path = write(tmp_path / "noise.wav", noise)
    content = path.read_bytes()
    position = content.index(b"data")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(content[:position] + odd + content[position:])
    assert audio.inspect_seekable(path).samples == 2 * RATE
    with pytest.raises(DataError, match="truncated"):
        audio.inspect_seekable(cut(path, 0.99))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x80000000])
def test_streamed_wav_extends_to_the_end(tmp_path: Path, noise: audio.Audio, size: int) -> None:
    path = wav_with_sizes(write(tmp_path / "noise.wav", noise), size)
    assert audio.inspect_seekable(path).samples == 2 * RATE
    np.testing.assert_array_equal(audio.read(path), noise)
    np.testing.assert_array_equal(audio.read(path, 100, 50), noise[:, 100:150])
    audio.rewrite(path, tmp_path / "copy.wav", "PCM_16")
    np.testing.assert_array_equal(audio.read(tmp_path / "copy.wav"), noise)


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_truncated_compressed_file(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    path = write(tmp_path / f"noise.{suffix}", np.tile(noise, 3))
    assert audio.inspect_seekable(path).samples == 6 * RATE
    with pytest.raises(DataError) as fault:
        audio.inspect_seekable(cut(path))
    declares = "declares" if suffix == "flac" else "declares or suggests"
    assert_message(fault, path, f"{declares} {6 * RATE} samples", "again", "ffmpeg -i OLD NEW")


@pytest.mark.parametrize(
    ("suffix", "options", "finding"),
    [
        ("flac", ["-f", "flac"], "does not declare its length"),
        ("mp3", ["-q:a", "2", "-f", "mp3"], "declares or suggests"),
    ],
)
def test_unknown_length(
    suffix: str, options: list[str], finding: str, tmp_path: Path, noise: audio.Audio
) -> None:
    """Random access needs an exact length; the command in the message repairs the file."""
    padded = np.pad(noise, ((0, 0), (0, 3 * RATE)))
    path = stream(write(tmp_path / "a.wav", padded), tmp_path / f"a.{suffix}", *options)
    with pytest.raises(DataError) as fault:
        audio.inspect_seekable(path)
    assert_message(fault, path, finding, f"by: ffmpeg -i OLD NEW.{suffix}")
    repaired = convert(path, tmp_path / f"new.{suffix}")
    assert audio.inspect_seekable(repaired).samples == pytest.approx(5 * RATE, abs=2500)


def test_paths_that_are_not_audio(tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "text.wav"
    text.write_text("not audio " * 1000)
    raw = tmp_path / "noise.raw"
    raw.write_bytes(bytes(1000))
    picture = tmp_path / "picture.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=0.1", str(picture)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    for path, finding in [
        (tmp_path / "missing.wav", "does not exist"),
        (tmp_path / "missing.raw", "does not exist"),
        (tmp_path, "is a folder"),
        (empty, "is empty (0 bytes)"),
        (text, "is not audio"),
        (raw, "is not audio"),
        (picture, "no audio stream"),
    ]:
        for reader in (inspect_song, audio.inspect_seekable, audio.read):
            with pytest.raises(DataError) as fault:
                reader(path)
            if reader is inspect_song:
                assert_message(fault, path, finding)
            assert_message(fault, path, "audio")
        with pytest.raises(DataError):  # by the call, before the first block
            audio.blocks(path, 100)


def test_not_audio_without_ffmpeg(tmp_path: Path, no_ffmpeg: None) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not audio " * 1000)
    with pytest.raises(DataError) as fault:
        audio.inspect_seekable(text)
    assert_message(fault, text, "is not audio", "WAV, FLAC, Ogg or MP3 was expected", "convert it")
    with pytest.raises(FFmpegMissingError) as missing:
        inspect_song(text)
    assert_message(missing, text, "is not WAV, FLAC, Ogg or MP3", "ffmpeg and ffprobe")


# ---------------------------------------------------------------------- read


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize(
    ("start", "samples"), [(0, None), (5, 100), (2 * RATE - 10, 100), (3 * RATE, 10), (7, 0)]
)
def test_read_a_part(
    tmp_path: Path, noise: audio.Audio, suffix: str, start: int, samples: int | None
) -> None:
    part = audio.read(write(tmp_path / f"noise.{suffix}", noise), start, samples)
    end = None if samples is None else start + samples
    np.testing.assert_array_equal(part, noise[:, start:end])
    assert part.dtype == np.float32
    assert part.flags.c_contiguous


def test_read_reports_damage_in_the_middle(tmp_path: Path, noise: audio.Audio) -> None:
    path = cut(write(tmp_path / "noise.flac", noise))
    with pytest.raises(DataError) as fault:
        audio.read(path, RATE, RATE)
    assert_message(fault, path, "damaged between 1.00 s and 2.00 s", "download it again")


# -------------------------------------------------------------------- blocks


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_blocks_equal_the_file(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    path = write(tmp_path / f"noise.{suffix}", noise)
    parts = list(audio.blocks(path, 3000))
    assert [part.shape for part in parts[:2]] == [(2, 3000), (2, 3000)]
    whole = audio.read(path)
    assert whole.shape == noise.shape
    # mpg123 rounds differently after a seek.
    tolerance = 1e-6 if suffix == "mp3" else 0
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=tolerance)


def test_rewrite_reports_a_truncated_file(tmp_path: Path, noise: audio.Audio) -> None:
    path = cut(write(tmp_path / "noise.mp3", np.tile(noise, 5)))
    with pytest.raises(DataError) as fault:
        audio.rewrite(path, tmp_path / "noise.wav", "FLOAT")
    assert_message(fault, path, "damaged near", "copy or download it again")


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be opened .File name too long"):
        audio.inspect_seekable(tmp_path / f"{'long' * 100}.wav")


def test_require_ffmpeg_names_the_package(
    tmp_path: Path, no_ffmpeg: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FFmpegMissingError) as fault:
        ffmpeg.require_ffmpeg("the preview")
    for part in (
        "the preview needs ffmpeg and ffprobe",
        "apt install ffmpeg",
        "conda install -c conda-forge ffmpeg",
        "brew install ffmpeg",
    ):
        assert part in str(fault.value)
    only_one = tmp_path / "only ffmpeg"
    only_one.mkdir()
    (only_one / "ffmpeg").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(only_one))
    with pytest.raises(FFmpegMissingError, match="but ffprobe was not found"):
        ffmpeg.require_ffmpeg("the preview")


def test_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr.wav"))
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 8000)
    (tmp_path / "x.wav").rename(path)
    assert audio.inspect_seekable(path).samples == 100
    path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="is not audio"):
        audio.inspect_seekable(path)

"""Reading audio files: exact samples, blocks of bounded size, errors with a remedy."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files import audio, ffmpeg

RATE = 8000


@pytest.fixture
def noise() -> audio.Audio:
    """Two seconds of 16-bit stereo noise, shape (C, T)."""
    integers = np.random.default_rng(0).integers(-8000, 8000, (2, 2 * RATE))
    return (integers / 32768).astype(np.float32)


@pytest.fixture
def no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "nothing on the path"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


def write(path: Path, waveform: audio.Audio, subtype: str | None = None) -> Path:
    soundfile.write(path, waveform.T, RATE, subtype=subtype)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def convert(source: Path, target: Path, *options: str) -> Path:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True)
    return target


def wav_with_data_size(path: Path, size: int) -> Path:
    """Replace the size that a WAV's data chunk declares."""
    content = path.read_bytes()
    position = content.index(b"data") + 4
    path.write_bytes(content[:position] + struct.pack("<I", size) + content[position + 4 :])
    return path


def assert_message(fault: pytest.ExceptionInfo[DataError], path: Path, *parts: str) -> None:
    message = str(fault.value)
    for part in (str(path), *parts):
        assert part in message


# ------------------------------------------------------------------- inspect


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_inspect_reads_the_header(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    path = write(tmp_path / f"noise.{suffix}", noise)
    assert audio.inspect(path) == audio.AudioInfo(2 * RATE, RATE, 2, "PCM_16")
    assert audio.inspect_seekable(str(path)) == audio.inspect(path)


def test_inspect_reads_other_formats_by_ffprobe(tmp_path: Path, noise: audio.Audio) -> None:
    source = write(tmp_path / "noise.wav", noise)
    m4a = convert(source, tmp_path / "noise.m4a")
    assert audio.inspect(m4a) == audio.AudioInfo(2 * RATE, RATE, 2, "aac")
    # Matroska has no length per stream, and Opus is always at 48 kHz.
    webm = audio.inspect(convert(source, tmp_path / "noise.webm", "-c:a", "libopus"))
    assert (webm.sample_rate, webm.channels, webm.subtype) == (48000, 2, "opus")
    assert webm.samples == pytest.approx(2 * 48000, rel=0.01)


def test_file_name_with_a_colon(tmp_path: Path, noise: audio.Audio) -> None:
    source = write(tmp_path / "noise.wav", noise)
    path = convert(source, tmp_path / "noise.m4a").rename(tmp_path / "-http: x.m4a")
    assert audio.inspect(path).samples == 2 * RATE
    assert sum(block.shape[1] for block in audio.blocks(path, RATE)) >= 2 * RATE


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_truncated_wav(tmp_path: Path, noise: audio.Audio, form: str, subtype: str) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise.T, RATE, subtype=subtype, format=form)
    assert audio.inspect(path).samples == 2 * RATE
    declared = 2 * RATE * 2 * {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    with pytest.raises(DataError) as fault:
        audio.inspect(cut(path))
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
    audio.inspect(path)
    with pytest.raises(DataError, match="truncated"):
        audio.inspect(cut(path))


def test_chunks_of_odd_length_are_padded(tmp_path: Path, noise: audio.Audio) -> None:
    path = write(tmp_path / "noise.wav", noise)
    content = path.read_bytes()
    position = content.index(b"data")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    path.write_bytes(content[:position] + odd + content[position:])
    assert audio.inspect(path).samples == 2 * RATE
    with pytest.raises(DataError, match="truncated"):
        audio.inspect(cut(path, 0.99))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_streamed_wav_extends_to_the_end(tmp_path: Path, noise: audio.Audio, size: int) -> None:
    path = wav_with_data_size(write(tmp_path / "noise.wav", noise), size)
    assert audio.inspect(path).samples == 2 * RATE
    np.testing.assert_array_equal(audio.read(path), noise)


def test_wav_with_an_unfinished_header(tmp_path: Path, noise: audio.Audio) -> None:
    path = wav_with_data_size(write(tmp_path / "noise.wav", noise), 0)
    with pytest.raises(DataError) as fault:
        audio.inspect(path)
    assert_message(fault, path, "no samples", "expected audio", "ffmpeg -i OLD NEW.wav")
    assert audio.inspect(convert(path, tmp_path / "repaired.wav")).samples == 2 * RATE


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_truncated_compressed_file(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    path = write(tmp_path / f"noise.{suffix}", np.tile(noise, 3))
    assert audio.inspect(path).samples == 6 * RATE
    with pytest.raises(DataError) as fault:
        audio.inspect(cut(path))
    assert_message(fault, path, f"declares {6 * RATE} samples", "end cannot be read", "again")


def test_flac_of_unknown_length(tmp_path: Path, noise: audio.Audio) -> None:
    source = write(tmp_path / "noise.wav", noise)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(source), "-f", "flac", "-"]
    path = tmp_path / "noise.flac"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    with pytest.raises(DataError) as fault:
        audio.inspect(path)
    assert_message(fault, path, "does not declare its length", "ffmpeg -i")


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
        for reader in (audio.inspect, audio.inspect_seekable, audio.read):
            with pytest.raises(DataError) as fault:
                reader(path)
            if reader is audio.inspect:
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
        audio.inspect(text)
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


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm", "mka"])
def test_blocks_through_ffmpeg(tmp_path: Path, noise: audio.Audio, suffix: str) -> None:
    seconds = np.arange(4 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    source = write(tmp_path / "tone.wav", np.stack([tone, 0.5 * tone]))
    path = convert(source, tmp_path / f"tone.{suffix}")
    parts = list(audio.blocks(path, 3000))
    assert [part.shape for part in parts[:2]] == [(2, 3000), (2, 3000)]
    whole = np.concatenate(parts, 1)
    assert whole.dtype == np.float32
    info = audio.inspect(path)
    assert whole.shape[1] == pytest.approx(4 * info.sample_rate, abs=2048)
    np.testing.assert_allclose(whole.std(1), [0.5 / 2**0.5, 0.25 / 2**0.5], rtol=0.05)


def test_ffmpeg_ends_when_the_caller_stops_early(
    tmp_path: Path, noise: audio.Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = convert(write(tmp_path / "noise.wav", np.tile(noise, 5)), tmp_path / "noise.m4a")
    started: list[subprocess.Popen[bytes]] = []

    class RecordingPopen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", RecordingPopen)
    stream = audio.blocks(path, 100)
    next(stream)
    assert started[-1].poll() is None
    del stream
    assert started[-1].returncode is not None


def test_blocks_of_a_truncated_m4a(tmp_path: Path, noise: audio.Audio) -> None:
    source = write(tmp_path / "noise.wav", np.tile(noise, 5))
    path = cut(convert(source, tmp_path / "noise.m4a", "-movflags", "+faststart"))
    with pytest.raises(DataError, match=r"declares 80000 samples .* could be read"):
        list(audio.blocks(path, RATE))
    song = audio.open_song(path)
    found = sum(block.shape[1] for block in song.blocks)
    assert RATE < found < 8 * RATE
    fault = song.shortfall()
    assert fault
    assert f"declares 80000 samples (10.00 s), {found} samples" in fault


def test_blocks_of_an_m4a_without_samples(tmp_path: Path, noise: audio.Audio) -> None:
    path = convert(write(tmp_path / "noise.wav", noise), tmp_path / "noise.m4a")
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    size = int.from_bytes(content[start - 8 : start - 4], "big") - 8
    path.write_bytes(content[:start] + b"\xff" * size + content[start + size :])
    with pytest.raises(DataError) as fault:
        list(audio.blocks(path, RATE))
    assert_message(fault, path, "ffmpeg could not decode it after", "copy or download it again")


def test_rewrite_reports_a_truncated_file(tmp_path: Path, noise: audio.Audio) -> None:
    path = cut(write(tmp_path / "noise.mp3", np.tile(noise, 5)))
    with pytest.raises(DataError) as fault:
        audio.rewrite(path, tmp_path / "noise.wav", "FLOAT")
    assert_message(fault, path, "damaged near", "copy or download it again")


def test_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be opened .File name too long"):
        audio.inspect(tmp_path / f"{'long' * 100}.wav")


def test_blocks_without_ffmpeg(
    tmp_path: Path, noise: audio.Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = write(tmp_path / "noise.wav", noise)
    m4a = convert(wav, tmp_path / "noise.m4a")
    monkeypatch.setenv("PATH", "")
    np.testing.assert_array_equal(np.concatenate(list(audio.blocks(wav, 999)), 1), noise)
    with pytest.raises(FFmpegMissingError) as fault:
        audio.blocks(m4a, 999)
    assert_message(fault, m4a, "ffmpeg and ffprobe", "apt install ffmpeg")


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
    path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="the name is not UTF-8"):
        audio.inspect(path)

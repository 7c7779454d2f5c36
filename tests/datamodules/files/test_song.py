"""Reading songs: all that a player plays, and what is missing of damaged ones."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from datamodules.errors import DataError, FFmpegMissingError
from datamodules.files.info import Audio, AudioInfo
from datamodules.files.song import inspect_song, open_song
from datamodules.files.tags import read_tags
from tests.helpers.audio_files import (
    RATE,
    convert,
    cut,
    damage,
    decoded_length,
    make_noise,
    rf64_with_sizes,
    stream,
    wav_with_sizes,
    write,
)


@pytest.fixture
def noise() -> Audio:
    return make_noise()


@pytest.fixture
def wav(tmp_path: Path, noise: Audio) -> Path:
    return write(tmp_path / "noise.wav", noise)


def whole(path: Path) -> tuple[Audio, str | None]:
    song = open_song(path, 3000)
    return np.concatenate(list(song.blocks), 1), song.shortfall()


def test_downmix_of_surround(tmp_path: Path) -> None:
    """ITU-R BS.775, for left, right, centre, low-frequency effects and two surrounds."""
    waveform = make_noise(1.5).reshape(6, -1)
    matrix = np.sqrt([[1, 0, 0.5, 0, 0.5, 0], [0, 1, 0.5, 0, 0, 0.5]])
    for path in (write(tmp_path / "six.wav", waveform), write(tmp_path / "six.flac", waveform)):
        song = open_song(path, 3000, downmix=True)
        assert song.info == inspect_song(path, downmix=True)
        assert song.info.channels == 2
        np.testing.assert_allclose(np.concatenate([*song.blocks], 1), matrix @ waveform, atol=2e-4)
        assert song.shortfall() is None
        assert open_song(path).info.channels == 6
    stereo = open_song(write(tmp_path / "stereo.wav", waveform[:2]), downmix=True)
    np.testing.assert_allclose(next(stereo.blocks), waveform[:2], atol=2e-4)


# ------------------------------------------------------- headers and decoding


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_header_tags_and_all_samples(suffix: str, tmp_path: Path, noise: Audio) -> None:
    path = tmp_path / f"song.{suffix}"
    with soundfile.SoundFile(path, "w", RATE, 2) as file:
        file.title = "A title"
        file.write(noise.T)
    song = open_song(path, 3000)
    assert song.info == inspect_song(path)
    assert song.tags == read_tags(path)
    assert song.tags["title"] == "A title"
    parts = list(song.blocks)
    assert song.shortfall() is None
    assert [part.shape for part in parts[:2]] == [(2, 3000), (2, 3000)]
    expected, _ = soundfile.read(path, dtype="float32")
    # Decoders of lossy formats differ by rounding.
    tolerance = 1e-4 if suffix in ("mp3", "ogg") else 0
    found = np.concatenate(parts, 1)
    np.testing.assert_allclose(found, expected.T, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_header_through_ffprobe(tmp_path: Path, wav: Path) -> None:
    assert inspect_song(convert(wav, tmp_path / "a.m4a")) == AudioInfo(2 * RATE, RATE, 2, "aac")
    # Opus is always at 48 kHz.
    webm = inspect_song(convert(wav, tmp_path / "a.webm", "-c:a", "libopus"))
    assert (webm.sample_rate, webm.channels, webm.subtype) == (48000, 2, "opus")
    assert webm.samples == pytest.approx(2 * 48000, rel=0.01)
    # ADTS has no header that tells the length.
    assert inspect_song(convert(wav, tmp_path / "a.aac")).samples == 0


def test_file_name_with_a_colon(tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "noise.m4a").rename(tmp_path / "-http: x.m4a")
    assert inspect_song(path).samples == 2 * RATE
    assert whole(path)[0].shape[1] >= 2 * RATE


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm", "mka"])
def test_blocks_through_ffmpeg(tmp_path: Path, suffix: str) -> None:
    seconds = np.arange(4 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    source = write(tmp_path / "tone.wav", np.stack([tone, 0.5 * tone]))
    path = convert(source, tmp_path / f"tone.{suffix}")
    song = open_song(path, 3000)
    parts = list(song.blocks)
    assert [part.shape for part in parts[:2]] == [(2, 3000), (2, 3000)]
    audio = np.concatenate(parts, 1)
    assert audio.dtype == np.float32
    assert audio.shape[1] == pytest.approx(4 * song.info.sample_rate, abs=2048)
    np.testing.assert_allclose(audio.std(1), [0.5 / 2**0.5, 0.25 / 2**0.5], rtol=0.05)
    assert song.shortfall() is None


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_blocks_are_writable_and_independent(
    suffix: str, channels: int, tmp_path: Path, noise: Audio
) -> None:
    source = write(tmp_path / "source.wav", noise[:channels])
    path = source if suffix == "wav" else convert(source, tmp_path / f"song.{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blocks = list(open_song(path, 1000).blocks)
        first = blocks[0].copy()
        torch.from_numpy(blocks[1]).zero_()
    assert np.array_equal(blocks[0], first)
    assert all(block.flags.c_contiguous for block in blocks)


def test_ffmpeg_ends_when_the_caller_stops_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = convert(write(tmp_path / "noise.wav", make_noise(10)), tmp_path / "noise.m4a")
    started: list[subprocess.Popen[bytes]] = []

    class RecordingPopen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", RecordingPopen)
    blocks = open_song(path, 100).blocks
    next(blocks)
    assert started[-1].poll() is None
    del blocks
    assert started[-1].returncode is not None


# ------------------------------------------- lengths that headers do not know


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp3", ["-q:a", "2", "-f", "mp3"]),  # variable bit rate, no Xing header
        ("mp3", ["-b:a", "64k", "-write_xing", "0", "-f", "mp3"]),
        ("flac", ["-f", "flac"]),
        ("ogg", ["-c:a", "libvorbis", "-f", "ogg"]),
        ("aac", ["-f", "adts"]),
        ("mka", ["-c:a", "aac", "-f", "matroska"]),
        ("wv", ["-f", "wv"]),
        ("au", ["-f", "au"]),
        ("caf", ["-f", "caf"]),
        ("ts", ["-c:a", "mp2", "-ar", "32000", "-f", "mpegts"]),
    ],
)
def test_streams_are_read_to_their_end(
    suffix: str, options: list[str], tmp_path: Path, noise: Audio
) -> None:
    """Noise, then silence: an estimate from the bit rate of the first frames is far too short."""
    padded = np.pad(noise, ((0, 0), (0, 3 * RATE)))
    path = stream(write(tmp_path / "a.wav", padded), tmp_path / f"a.{suffix}", *options)
    audio, shortfall = whole(path)
    assert audio.shape[1] == decoded_length(path)
    assert audio.shape[1] / inspect_song(path).sample_rate == pytest.approx(5, abs=0.3)
    assert shortfall is None


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_joined_files_are_read_to_their_end(suffix: str, tmp_path: Path, wav: Path) -> None:
    one = convert(wav, tmp_path / f"one.{suffix}").read_bytes()
    (tmp_path / f"two.{suffix}").write_bytes(one + one)
    audio, shortfall = whole(tmp_path / f"two.{suffix}")
    assert audio.shape[1] == pytest.approx(4 * RATE, abs=2500)
    assert shortfall is None


@pytest.mark.parametrize("frames", [0, 5, 1000])
def test_mp3_whose_header_declares_a_wrong_length(frames: int, tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "a.mp3")
    content = bytearray(path.read_bytes())
    start = max(content.find(b"Xing"), content.find(b"Info")) + 8
    content[start : start + 4] = frames.to_bytes(4, "big")
    path.write_bytes(content)
    audio, shortfall = whole(path)
    assert audio.shape[1] == pytest.approx(2 * RATE, abs=2500)
    assert inspect_song(path).samples == pytest.approx(2 * RATE, abs=2500)
    if frames == 1000:
        assert shortfall
        assert f"declares {576 * frames} samples" in shortfall
    else:
        assert shortfall is None


@pytest.mark.parametrize("declared", [0, 5000])
def test_flac_whose_header_declares_too_little(declared: int, tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36  # the last 36 bits are the length
    content[18:26] = (fields | declared).to_bytes(8, "big")
    path.write_bytes(content)
    audio, shortfall = whole(path)
    assert audio.shape[1] == 2 * RATE
    assert shortfall is None


# ------------------------------------------------------ unfinished WAV headers

UNFINISHED = [
    (0, None),
    (0, 0),
    (0, 36),
    (0x80000000, 0x80000024),
    (0x80000000 - 36, 0x80000000),
    (0x7FFFF000, 0x7FFFF024),
    (0x7FFFFFFF, 0),
    (0xFFFFFFFF, 0xFFFFFFFF),
    (0xFFFFFFFF - 36, 0xFFFFFFFF),
    (0xFFFFFF00, 0),
]


@pytest.mark.parametrize(("data", "riff"), UNFINISHED)
def test_unfinished_wav(data: int, riff: int | None, wav: Path, noise: Audio) -> None:
    audio, shortfall = whole(wav_with_sizes(wav, data, riff))
    assert np.array_equal(audio, noise)
    assert shortfall is None


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("data", [0, 0x80000000])
def test_unfinished_wav_of_any_encoding(
    data: int, subtype: str, tmp_path: Path, noise: Audio
) -> None:
    path = write(tmp_path / "a.wav", noise, subtype)
    expected = soundfile.read(path, dtype="float32")[0].T
    audio, shortfall = whole(wav_with_sizes(path, data))
    assert np.array_equal(audio[:, : 2 * RATE], expected)
    assert shortfall is None


@pytest.mark.parametrize("sizes", [b"\0", b"\xff"])
@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
def test_unfinished_rf64(sizes: bytes, name: bytes, tmp_path: Path, noise: Audio) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise.T, RATE, format="RF64", subtype="PCM_16")
    path.write_bytes(name + rf64_with_sizes(path, sizes).read_bytes()[4:])
    audio, shortfall = whole(path)
    assert np.array_equal(audio, noise)
    assert shortfall is None


def test_tags_of_an_unfinished_wav(tmp_path: Path, wav: Path) -> None:
    path = stream(wav, tmp_path / "a.wav", "-metadata", "title=A title", "-f", "wav")
    assert open_song(path).tags["title"] == "A title"


def test_wav_without_samples_is_no_song(wav: Path) -> None:
    for following in (b"", b"LIST\x04\0\0\0INFO"):
        content = wav.read_bytes()
        path = wav.with_name("empty.wav")
        path.write_bytes(content[: content.index(b"data") + 4] + bytes(4) + following)
        with pytest.raises(DataError, match="holds no samples"):
            open_song(path)


# ------------------------------------------------------------- incomplete songs


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, damage])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("flac", []),
        ("mp3", []),
        ("m4a", ["-movflags", "+faststart"]),
        ("mka", ["-c:a", "flac"]),
        ("webm", ["-c:a", "libopus"]),
        ("wv", []),
    ],
)
def test_what_there_is_of_an_incomplete_song_is_read(
    suffix: str, options: list[str], harm: Any, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.wav", make_noise(8))
    path = harm(convert(source, tmp_path / f"a.{suffix}", *options))
    audio, shortfall = whole(path)
    seconds = audio.shape[1] / inspect_song(path).sample_rate
    assert 1 < seconds < 7.9
    assert shortfall
    assert shortfall.startswith(f"{path}: declares ")
    assert f", {audio.shape[1]} samples ({seconds:.2f} s) could be read" in shortfall
    assert "again" in shortfall


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "AIFF", "AU"])
def test_truncated_uncompressed_song(form: str, tmp_path: Path, noise: Audio) -> None:
    path = tmp_path / "a.sound"
    soundfile.write(path, noise.T, RATE, format=form, subtype="PCM_16")
    audio, shortfall = whole(cut(path))
    assert np.array_equal(audio, noise[:, : audio.shape[1]])
    assert RATE < audio.shape[1] < 2 * RATE
    assert shortfall
    assert f"declares {2 * RATE} samples (2.00 s), {audio.shape[1]} samples" in shortfall


def test_ogg_damaged_in_the_middle(tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", make_noise(8))
    path = damage(convert(source, tmp_path / "a.ogg", "-c:a", "libvorbis"), 0.3)
    audio, shortfall = whole(path)
    assert RATE < audio.shape[1] < 7 * RATE
    assert shortfall
    assert f"declares {8 * RATE} samples (8.00 s)" in shortfall


def test_song_without_any_sample(tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "noise.m4a")
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    size = int.from_bytes(content[start - 8 : start - 4], "big") - 8
    path.write_bytes(content[:start] + b"\xff" * size + content[start + size :])
    with pytest.raises(DataError, match=r"noise.m4a: ffmpeg could not decode it after 0.00 s .*;"):
        list(open_song(path).blocks)


# --------------------------------------------------------------- without ffmpeg


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_songs_without_ffmpeg(
    suffix: str, tmp_path: Path, noise: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"a.{suffix}", noise)
    monkeypatch.setenv("PATH", "")
    audio, shortfall = whole(path)
    assert audio.shape == noise.shape
    assert shortfall is None
    assert whole(cut(path))[0].shape[1] > RATE / 2


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("mp3", ["-q:a", "2", "-f", "mp3"]), ("flac", ["-f", "flac"]), ("aac", ["-f", "adts"])],
)
def test_songs_that_need_ffmpeg(
    suffix: str, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = np.pad(make_noise(), ((0, 0), (0, 3 * RATE)))
    path = stream(write(tmp_path / "a.wav", padded), tmp_path / f"a.{suffix}", *options)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FFmpegMissingError, match=r"needs ffmpeg and ffprobe.*apt install") as fault:
        open_song(path)
    assert str(path) in str(fault.value)

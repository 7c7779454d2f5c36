"""Counting the samples of MP3 files."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.files.mp3 import read_mp3
from tests.helpers.audio_files import RATE, convert, cut, decoded_length, make_noise, stream, write


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return write(tmp_path / "a.wav", make_noise())


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("options", [["-q:a", "2"], ["-b:a", "32k"]])
def test_count_is_what_ffmpeg_decodes(
    rate: int, options: list[str], tmp_path: Path, wav: Path
) -> None:
    path = stream(wav, tmp_path / "a.mp3", "-ar", str(rate), *options, "-f", "mp3")
    assert read_mp3(path) == (decoded_length(path), 0)


def test_declared_length(tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "a.mp3")
    counted, declared = read_mp3(path)
    assert counted == declared
    assert 2 * RATE < counted < 2 * RATE + 2500
    assert read_mp3(cut(path)).declared == declared
    assert read_mp3(path).counted < 0.7 * declared


def test_declared_length_in_a_vbri_header(tmp_path: Path, wav: Path) -> None:
    path = convert(wav, tmp_path / "a.mp3")
    content = bytearray(path.read_bytes())
    start = max(content.find(b"Xing"), content.find(b"Info"))
    content[start : start + 18] = b"VBRI" + bytes(10) + (7).to_bytes(4, "big")
    path.write_bytes(content)
    assert read_mp3(path).declared == 7 * 576


@pytest.mark.parametrize("front", [b"", b"\xff\xfb" * 50, b"ID3\4\0\0\0\0\1\0" + b"\xff" * 128])
@pytest.mark.parametrize("end", [b"", b"TAG" + bytes(125), b"<html>\xff\xfb" * 500])
def test_other_data_is_skipped(front: bytes, end: bytes, tmp_path: Path, wav: Path) -> None:
    path = stream(wav, tmp_path / "a.mp3", "-id3v2_version", "0", "-f", "mp3")
    expected = read_mp3(path)
    path.write_bytes(front + path.read_bytes() + end)
    assert read_mp3(path) == expected
    half = len(path.read_bytes()) // 2
    content = path.read_bytes()
    path.write_bytes(content[:half] + b"junk" * 300 + content[half:])
    assert expected.counted - 2 * 576 <= read_mp3(path).counted <= expected.counted


def test_file_without_frames(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"\xff\xfb\x90\x00 not audio" * 9)
    assert read_mp3(tmp_path / "a.mp3") == (0, 0)

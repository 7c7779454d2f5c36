"""Lists of names on standard input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.errors import DataError
from datamodules.files.name_lists import read_names


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.wav\nb c.wav\n", ["a.wav", "b c.wav"]),
        (b"a.wav\r\n\r\nb.wav", ["a.wav", "b.wav"]),
        (b"a \n b.wav\n", ["a ", " b.wav"]),
        (b"one\nline.wav\0b.wav\0", ["one\nline.wav", "b.wav"]),
        (b"\xef\xbb\xbfa.wav\n", ["a.wav"]),
        (b"\xff.wav\n", ["\udcff.wav"]),
        (("é" * 40_000).encode() + b"\nb", ["é" * 40_000, "b"]),
    ],
)
def test_names(content: bytes, expected: list[str]) -> None:
    assert read_names(io.BytesIO(content)) == expected


def test_names_with_control_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bell\x07.wav").touch()
    assert read_names(io.BytesIO(b"bell\x07.wav\0")) == ["bell\x07.wav"]


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"])
def test_audio_is_recognised(kind: str) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(file, noise, 8000, format=kind)
    with pytest.raises(DataError, match=r"not a list of names.* /dev/stdin"):
        read_names(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n"])
def test_no_names(content: bytes) -> None:
    with pytest.raises(DataError, match="no names"):
        read_names(io.BytesIO(content))

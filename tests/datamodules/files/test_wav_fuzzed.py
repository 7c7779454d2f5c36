"""WAV headers with wrong bytes: refused, or read as libsndfile reads them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.files.mapped_wav import MappedFile
from datamodules.files.wav import is_mappable, read_wav_header
from tests.helpers.fuzzing import fuzzed

KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"),
    ("WAVEX", "FLOAT"),
    ("RF64", "PCM_16"),
]
FRAMES, CHANNELS = 20, 2
NAMES = {"PCM_16": "int16", "PCM_32": "int32", "FLOAT": "float32", "DOUBLE": "float64"}
# Bytes that lengths and formats turn on.
BYTES = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 24, 32, 64, 127, 128, 254, 255]) | st.integers(
    0, 255
)
CHUNKS = st.tuples(
    st.sampled_from([b"LIST", b"fmt ", b"data", b"ds64", b"fact", b"\0\0\0\0"]),
    st.sampled_from([0, 1, 2, 15, 16, 40, 1000, 0x7FFF0000, 0x7FFFFFFF, 0xFFFFFFFF]),
    st.binary(max_size=20),
)


def written(kind: str, subtype: str) -> bytes:
    audio = np.random.default_rng(0).uniform(-0.9, 0.9, (FRAMES, CHANNELS))
    file = io.BytesIO()
    soundfile.write(file, audio, 44100, subtype=subtype, format=kind)
    return file.getvalue()


FILES = [written(*kind) for kind in KINDS]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with some bytes of its header changed, a chunk inserted, and an end cut off."""
    content = bytearray(draw(st.sampled_from(FILES)))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 100), BYTES), max_size=4)):
        content[position] = value
    for name, size, body in draw(st.lists(CHUNKS, max_size=2)):
        at = draw(st.sampled_from([12, 36]))
        content[at:at] = name + size.to_bytes(4, "little") + body
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


def decoded(path: Path) -> np.ndarray | None:
    """Samples as libsndfile reads them, or None if it refuses the file or knows other types."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in ("WAV", "WAVEX", "RF64") or file.subtype not in NAMES:
                return None
            samples: np.ndarray = file.read(dtype=NAMES[file.subtype], always_2d=True)
            return samples
    except (soundfile.LibsndfileError, OverflowError, MemoryError):
        return None


@pytest.mark.slow
@fuzzed(300)
@given(damaged())
def test_damaged_headers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    header = read_wav_header(path)
    if header is not None:
        assert 0 <= header.offset <= len(content)
        assert header.offset + header.present == len(content)
    try:
        mapped = MappedFile(path).samples.numpy()
    except DataError as error:
        message = str(error)
    else:
        message = ""
    assert is_mappable(path) == (not message)
    if message:
        assert message.startswith(f"{path}: ")
        return
    assert header is not None
    assert header.offset + mapped.nbytes <= len(content)
    expected = decoded(path)
    # A size of 0 is that of a pipe here; data sets are refused before, as libsndfile reads nothing.
    if expected is not None and len(expected):
        assert mapped.dtype == expected.dtype
        assert mapped.shape == expected.shape
        assert mapped.tobytes() == expected.tobytes()


@pytest.mark.parametrize("begin", [b"", b"RIFF\0\0\0\0WAVE"])
def test_a_file_of_zeros_is_refused_at_once(tmp_path: Path, begin: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(begin)
    os.truncate(path, 10**10)  # sparse; reading all of it takes an hour
    assert read_wav_header(path) is None
    assert not is_mappable(path)

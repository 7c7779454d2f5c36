"""Audio files in all states: complete, streamed, truncated, damaged."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from datamodules.files.info import Audio

RATE = 8000


def make_noise(seconds: float = 2) -> Audio:
    """16-bit stereo noise, shape (2, T)."""
    integers = np.random.default_rng(0).integers(-8000, 8000, (2, round(seconds * RATE)))
    return (integers / 32768).astype(np.float32)


def write(path: Path, waveform: Audio, subtype: str | None = None) -> Path:
    """Write a waveform (C, T) with soundfile."""
    soundfile.write(path, waveform.T, RATE, subtype=subtype)
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def damage(path: Path, share: float = 0.15) -> Path:
    """Overwrite a part in the middle of a file with random bytes."""
    content = bytearray(path.read_bytes())
    size = int(share * len(content))
    start = len(content) // 2
    content[start : start + size] = np.random.default_rng(1).bytes(size)
    path.write_bytes(content)
    return path


def convert(source: Path, target: Path, *options: str) -> Path:
    """Convert a file with ffmpeg."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True)
    return target


def stream(source: Path, target: Path, *options: str) -> Path:
    """Convert a file with ffmpeg into a pipe, so that it cannot complete the header."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(source), *options, "-"]
    target.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return target


def decoded_length(path: Path) -> int:
    """Samples per channel of a stereo file, as ffmpeg decodes it to its end."""
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", str(path), "-f", "s16le", "-"]
    return len(subprocess.run(command, check=False, capture_output=True).stdout) // 4


def wav_with_sizes(path: Path, data: int, riff: int | None = None) -> Path:
    """Replace the sizes that a WAV declares for its samples and for the file."""
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    content[position : position + 4] = struct.pack("<I", data)
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    path.write_bytes(content)
    return path


def rf64_with_sizes(path: Path, sizes: bytes) -> Path:
    """Replace the file's and the samples' sizes and the length in an RF64's ds64 chunk."""
    content = bytearray(path.read_bytes())
    position = content.index(b"ds64") + 8
    content[position : position + 24] = sizes * 24
    path.write_bytes(content)
    return path

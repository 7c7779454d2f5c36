"""WAV headers: position and type of the samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

# (tag, bits) in the header -> type of the samples; there is none for 24 bits.
TYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (1, 16): np.dtype("<i2"),
    (1, 32): np.dtype("<i4"),
    (3, 32): np.dtype("<f4"),
    (3, 64): np.dtype("<f8"),
}
_EXTENSIBLE = 0xFFFE
# Before the samples; there are a handful. A file of zeros is one empty chunk after another.
_MOST_CHUNKS = 1000


class WavHeader(NamedTuple):
    """Contents of a WAV file's chunks.

    Attributes:
        offset: First byte of the samples.
        declared: Size of the samples according to the header, bytes; None if it is unfinished.
        present: Size of the file after the offset, bytes.
        tag: Format: 1 integers, 3 floats.
        bits: Bits per sample.
        channels: Number of channels.
    """

    offset: int
    declared: int | None
    present: int
    tag: int
    bits: int
    channels: int


def read_wav_header(path: Path) -> WavHeader | None:
    """Read the chunks of a RIFF or RF64 file up to its samples; None without a data chunk."""
    with path.open("rb") as file:
        return wav_header_of(file)


def wav_header_of(file: BinaryIO) -> WavHeader | None:
    """Like `read_wav_header`, for an open file at its beginning."""
    order: Literal["big", "little"] = "big" if file.read(12)[:4] == b"RIFX" else "little"

    def number(content: bytes) -> int:
        return int.from_bytes(content, order)

    long_bytes = None
    tag = bits = channels = 0
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, size = chunk[:4], number(chunk[4:])
        if name == b"data":
            if size == 0xFFFFFFFF and long_bytes is not None:
                size = long_bytes
            # In a WAV written to a pipe the size is 0, all ones or (sox) just below 2 GiB: the
            # samples extend to the end of the file.
            streamed = size in (0, 0xFFFFFFFF) or 0x7FFF0000 <= size <= 0x7FFFFFFF
            offset = file.tell()
            present = os.fstat(file.fileno()).st_size - offset
            # TYPES has no big-endian samples.
            tag = tag if order == "little" else 0
            return WavHeader(offset, None if streamed else size, present, tag, bits, channels)
        end = file.tell() + size + size % 2  # chunks start at even bytes
        if name == b"fmt ":
            content = file.read(min(size, 40))
            tag, channels, bits = (number(content[a : a + 2]) for a in (0, 2, 14))
            if tag == _EXTENSIBLE:
                tag = number(content[24:26])
        elif name == b"ds64":  # 64-bit sizes of an RF64: file, then samples
            long_bytes = number(file.read(16)[8:])
        file.seek(end)
    return None


def is_mappable(path: Path) -> bool:
    """Whether a file can be memory-mapped: WAV of 16 or 32-bit integers, or of floats."""
    if path.suffix.lower() != ".wav":
        return False
    header = read_wav_header(path)
    return header is not None and (header.tag, header.bits) in TYPES

"""WAV headers: position and type of the samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from datamodules.files.names import suffix_of

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
# Programs that write WAV to a pipe put 0, or a number this near to 2 or 4 GiB, as the size.
_NEAR_BYTES = 2**16


class WavHeader(NamedTuple):
    """Contents of a WAV file's chunks.

    Attributes:
        offset: First byte of the samples.
        declared: Size of the samples according to the header, bytes; None if it is unfinished:
            the samples then extend to the end of the file.
        present: Size of the file after the offset, bytes.
        tag: Format: 1 integers, 3 floats.
        bits: Bits per sample.
        channels: Number of channels.
        sample_rate: Sample rate, Hz.
        order: Byte order of the samples.
    """

    offset: int
    declared: int | None
    present: int
    tag: int
    bits: int
    channels: int
    sample_rate: int
    order: Literal["big", "little"]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Type of samples that can be memory-mapped."""
        return TYPES.get((self.tag, self.bits)) if self.order == "little" else None

    @property
    def is_truncated(self) -> bool:
        """Whether samples are missing at the end of the file."""
        return self.declared is not None and self.present < self.declared


def read_wav_header(path: Path) -> WavHeader | None:
    """Read the chunks of a RIFF or RF64 file up to its samples; None if it has none."""
    with path.open("rb") as file:
        return wav_header_of(file)


def wav_header_of(file: BinaryIO) -> WavHeader | None:
    """Like `read_wav_header`, for an open file at its beginning."""
    first = file.read(12)
    if first[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return None
    order: Literal["big", "little"] = "big" if first[:4] == b"RIFX" else "little"

    def number(content: bytes) -> int:
        return int.from_bytes(content, order)

    file_bytes = os.fstat(file.fileno()).st_size
    long_bytes = None
    tag = bits = channels = rate = 0
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, size = chunk[:4], number(chunk[4:])
        if name == b"data":
            if size in (0, 0xFFFFFFFF) and long_bytes is not None:
                size = long_bytes
            offset, present = file.tell(), file_bytes - file.tell()
            is_empty = size == 0 and _only_chunks_follow(file, order)
            declared = None if _is_placeholder(size, present) and not is_empty else size
            return WavHeader(offset, declared, present, tag, bits, channels, rate, order)
        end = file.tell() + size + size % 2  # chunks start at even bytes
        if name == b"fmt ":
            content = file.read(min(size, 40))
            tag, channels, bits = (number(content[a : a + 2]) for a in (0, 2, 14))
            rate = number(content[4:8])
            if tag == _EXTENSIBLE:
                tag = number(content[24:26])
        elif name == b"ds64":  # 64-bit sizes of an RF64: file, then samples
            long_bytes = number(file.read(16)[8:])
        file.seek(end)
    return None


def _is_placeholder(size: int, present: int) -> bool:
    """Whether the size of the samples was never filled in, as in recordings and pipes."""
    near = min(abs(size - 2**31), abs(size - 2**32)) <= _NEAR_BYTES
    return size == 0 or (size > present and (near or size >= 2**62))


def _only_chunks_follow(file: BinaryIO, order: Literal["big", "little"]) -> bool:
    """Whether an open file consists of complete chunks from its position to its end."""
    file_bytes = os.fstat(file.fileno()).st_size
    while (position := file.tell()) < file_bytes:
        chunk = file.read(8)
        end = position + 8 + int.from_bytes(chunk[4:], order)
        if not (len(chunk) == 8 and chunk[:4].isascii() and chunk[:4].decode().isprintable()):
            return False
        if end > file_bytes:
            return False
        file.seek(end + end % 2 if end < file_bytes else end)
    return True


def is_mappable(path: Path) -> bool:
    """Whether a file can be memory-mapped: WAV of 16 or 32-bit integers, or of floats."""
    if suffix_of(path) != ".wav":
        return False
    header = read_wav_header(path)
    return header is not None and header.dtype is not None

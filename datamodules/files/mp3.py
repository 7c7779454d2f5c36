"""Length of MP3 files, counted frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# kbit/s of layer III by the header's index: MPEG 1, then MPEG 2 and 2.5.
_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
# Hz by the header's version (MPEG 2.5, reserved, 2, 1) and index.
_RATES = ((11025, 12000, 8000), (), (22050, 24000, 16000), (44100, 48000, 32000))
# Bytes that a file is searched for the next frame after other data.
_SEARCH_BYTES = 2**16


class Mp3(NamedTuple):
    """Lengths of an MP3 file, samples per channel, including the encoder's delay and padding.

    Decoders give up to 2,300 samples less.

    Attributes:
        counted: In all its frames.
        declared: By its Xing or VBRI header; 0 if there is none.
    """

    counted: int
    declared: int


def read_mp3(path: Path) -> Mp3:
    """Count the samples of an MP3 file from the headers of its frames, without decoding."""
    content = path.read_bytes()
    position, counted, declared = _after_tag(content), 0, 0
    while position >= 0:
        size, length = _frame(content, position)
        # The very first frame is found by the one after it, as other data may look like one.
        if not size or not (counted or declared or _frame(content, position + size)[0]):
            position = _next_frame(content, position + 1)
            continue
        frames = None if counted or declared else _declared_frames(content, position)
        if frames is None:
            counted += length
        else:
            declared = frames * length
        position += size
    return Mp3(counted, declared)


def _declared_frames(content: bytes, position: int) -> int | None:
    """Number of frames by a frame without audio; 0 if it does not say, None for other frames."""
    frame = content[position : position + 64]
    for name in (b"Xing", b"Info"):
        if (start := frame.find(name)) > 0:
            has_number = frame[start + 7] & 1
            return int.from_bytes(frame[start + 8 : start + 12], "big") if has_number else 0
    if (start := frame.find(b"VBRI")) > 0:
        return int.from_bytes(frame[start + 14 : start + 18], "big")
    return None


def _after_tag(content: bytes) -> int:
    """Skip the ID3 tag, whose size has seven bits per byte."""
    size = 0
    if content[:3] == b"ID3":
        for byte in content[6:10]:
            size = 128 * size + (byte & 127)
        size += 10
    return size


def _next_frame(content: bytes, start: int) -> int:
    """Find two consecutive frames; -1 if there are none within reach."""
    position, end = start, start + _SEARCH_BYTES
    while (position := content.find(b"\xff", position, end)) >= 0:
        size, _ = _frame(content, position)
        if size and _frame(content, position + size)[0]:
            return position
        position += 1
    return -1


def _frame(content: bytes, position: int) -> tuple[int, int]:
    """Return a frame's size in bytes and its length in samples; zeros if there is no frame."""
    header = int.from_bytes(content[position : position + 4], "big")
    version, layer = header >> 19 & 3, header >> 17 & 3
    bitrate, rate = header >> 12 & 15, header >> 10 & 3
    # Layer III has number 1. A bit rate of 0 ("free") is not supported.
    if header >> 21 != 0x7FF or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return 0, 0
    is_first_version = version == 3
    length = 1152 if is_first_version else 576
    kbps = _KBPS[0 if is_first_version else 1][bitrate]
    return length // 8 * 1000 * kbps // _RATES[version][rate] + (header >> 9 & 1), length

"""The ``stem`` box that makes an MP4 file one of Native Instruments' Stems, for DJ programs.

It lies in ``moov/udta`` and holds JSON: names and colours of the four stems, which are the audio
tracks after the first (the mixture), and settings of a compressor and a limiter, which are off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Track order and colours of the format's own example.
_COLOURS = {"drums": "#009E73", "bass": "#D55E00", "other": "#CC79A7", "vocals": "#56B4E9"}
DJ_STEMS = tuple(_COLOURS)
_COMPRESSOR = {
    "enabled": False,
    "ratio": 3,
    "output_gain": 0.5,
    "release": 0.3,
    "attack": 0.003,
    "input_gain": 0.5,
    "threshold": 0,
    "hp_cutoff": 300,
    "dry_wet": 50,
}
_LIMITER = {"enabled": False, "release": 0.05, "threshold": 0, "ceiling": -0.35}
_HEADER_BYTES = 8


class Box(NamedTuple):
    """Position of a box in an MP4 file.

    Attributes:
        name: Its four letters.
        start: First byte of its header.
        content: First byte after its header.
        end: First byte after the box.
    """

    name: bytes
    start: int
    content: int
    end: int


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Find the boxes between two positions of a file, which are the content of another or all."""
    while start + _HEADER_BYTES <= end:
        file.seek(start)
        header = file.read(2 * _HEADER_BYTES)
        size, content = int.from_bytes(header[:4], "big"), start + _HEADER_BYTES
        if size == 1:  # 64-bit size after the name
            size, content = int.from_bytes(header[8:], "big"), content + _HEADER_BYTES
        stop = start + size if size else end  # 0: to the end of the file
        yield Box(header[4:8], start, content, stop)
        start = max(stop, content)


def add_stem_box(path: Path) -> None:
    """Add the box to a file whose audio tracks are the mixture and ``DJ_STEMS``, in this order."""
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        (moov,) = (box for box in boxes(file, 0, size) if box.name == b"moov")
        parts = list(boxes(file, moov.content, moov.end))
        user_data = b""
        others = b""
        for part in parts:
            if part.name == b"udta":
                user_data += _read(file, part.content, part.end)
            else:
                others += _read(file, part.start, part.end)
        user_data = _box(b"udta", user_data + _box(b"stem", _manifest()))
        # At the end of the file, so that all offsets in it remain right. ffmpeg puts moov there.
        if moov.end == size:
            file.truncate(moov.start)
        else:
            file.seek(moov.start + 4)
            file.write(b"free")
        file.seek(0, os.SEEK_END)
        file.write(_box(b"moov", others + user_data))


def _manifest() -> bytes:
    content = {
        "mastering_dsp": {"compressor": _COMPRESSOR, "limiter": _LIMITER},
        "version": 1,
        "stems": [{"name": name.title(), "color": colour} for name, colour in _COLOURS.items()],
    }
    return json.dumps(content).encode()


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _box(name: bytes, content: bytes) -> bytes:
    return (_HEADER_BYTES + len(content)).to_bytes(4, "big") + name + content

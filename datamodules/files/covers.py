"""Pictures in audio files: album covers."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from datamodules.files import ffmpeg

_TYPES = {"mjpeg": "image/jpeg", "png": "image/png"}
_FRONT_COVER = 3
_PICTURE_BLOCK = 6
_LAST = 0x80
# A FLAC file begins with "fLaC", and the header and content of STREAMINFO.
_STREAMINFO_END = 4 + 4 + 34
_MOST_BYTES = 2**24 - 1024  # a FLAC block has 24 bits for its length


class Cover(NamedTuple):
    """A picture.

    Attributes:
        content: Content of its file.
        mime: Its type, such as ``image/jpeg``.
        width: Pixels.
        height: Pixels.
    """

    content: bytes
    mime: str
    width: int
    height: int


def read_cover(path: Path) -> Cover | None:
    """Read the cover of a song through ffmpeg, if it has one and ffmpeg is installed."""
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        return None
    fields = "stream=index,codec_name,width,height:stream_disposition=attached_pic"
    content, _ = ffmpeg.probe(path, "-select_streams", "v", "-show_entries", fields)
    for stream in content.get("streams", []):
        mime = _TYPES.get(stream.get("codec_name", ""))
        if not mime or not stream.get("disposition", {}).get("attached_pic"):
            continue
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}"]
        command += ["-map", f"0:{stream['index']}", "-c", "copy", "-frames:v", "1"]
        command += ["-f", "image2pipe", "-"]
        picture = subprocess.run(command, capture_output=True, check=False).stdout
        if 0 < len(picture) < _MOST_BYTES:
            return Cover(picture, mime, int(stream["width"]), int(stream["height"]))
    return None


def add_flac_picture(path: Path, cover: Cover) -> None:
    """Insert a picture into a FLAC file, behind its first block."""
    block = _picture(cover)
    changed = path.with_name(f"{path.name}.cover")
    with path.open("rb") as old, changed.open("wb") as new:
        head = bytearray(old.read(_STREAMINFO_END))
        is_last = head[4] & _LAST
        head[4] &= ~_LAST
        size = len(block).to_bytes(3, "big")
        new.write(head + bytes([_PICTURE_BLOCK | is_last]) + size + block)
        shutil.copyfileobj(old, new)
    changed.replace(path)


def ogg_picture(cover: Cover) -> str:
    """Return the comment of an Ogg file that holds a picture, as a line of ffmpeg's metadata."""
    encoded = base64.b64encode(_picture(cover)).decode().replace("=", "\\=")
    return f"METADATA_BLOCK_PICTURE={encoded}"


def _picture(cover: Cover) -> bytes:
    """Content of a picture block of FLAC."""
    mime = cover.mime.encode()
    return b"".join([
        struct.pack(">II", _FRONT_COVER, len(mime)),
        mime,
        struct.pack(">IIIIII", 0, cover.width, cover.height, 24, 0, len(cover.content)),
        cover.content,
    ])  # fmt: skip

"""Boxes of MP4 files, and .stem.mp4 files, written by tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

LEVELS = {"vocals": 0.08, "drums": 0.04, "bass": 0.02, "other": 0.01}


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of an MP4 file."""
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def trak(title: bytes = b"", handler: bytes = b"SoundHandler\0", kind: bytes = b"soun") -> bytes:
    """The box of a stream; ``title`` is the content of its box ``udta``."""
    return box(
        b"trak",
        box(b"tkhd", bytes(84)),
        box(b"mdia", box(b"hdlr", bytes(8), kind, bytes(12), handler)),
        box(b"udta", title) if title else b"",
    )


def named(*titles: str) -> bytes:
    """An MP4 file without samples whose streams have titles, as ffmpeg writes them."""
    traks = [trak(box(b"name", title.encode()) if title else b"") for title in titles]
    return box(b"ftyp", b"isom") + box(b"mdat", bytes(99)) + box(b"moov", *traks)


def stem_box(*names: str) -> bytes:
    """The box in which DJ programs look for the names of the streams after the first."""
    content = {"version": 1, "stems": [{"name": name, "color": "#009E73"} for name in names]}
    return box(b"udta", box(b"stem", json.dumps(content).encode()))


def write_stem_file(path: Path, streams: Sequence[str], titles: Sequence[str] = ()) -> None:
    """Write a .stem.mp4 of noise, a level per stem (`LEVELS`); ``mixture`` is their sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waveforms = {
        stem: level * np.random.default_rng(number).standard_normal((8000, 1))
        for number, (stem, level) in enumerate(LEVELS.items())
    }
    waveforms["mixture"] = sum(waveforms.values(), np.zeros((8000, 1)))
    joined = path.with_suffix(".wav")
    soundfile.write(joined, np.hstack([waveforms[name] for name in streams]), 16000, "FLOAT")
    split = ";".join(f"[0:a]pan=mono|c0=c{number}[s{number}]" for number in range(len(streams)))
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(joined), "-filter_complex", split]
    for number in range(len(streams)):
        command += ["-map", f"[s{number}]"]
    for number, title in enumerate(titles):
        command += [f"-metadata:s:a:{number}", f"title={title}"]
    subprocess.run([*command, "-c:a", "aac", "-b:a", "128k", "-f", "mp4", str(path)], check=True)
    joined.unlink()

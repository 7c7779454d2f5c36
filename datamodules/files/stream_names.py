"""Audio streams of a .stem.mp4: their names in the file, and the stem that each one is.

ffprobe does not show the title that ffmpeg writes for a stream of an MP4 file, so the boxes of the
file (ISO/IEC 14496-12) are read here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from datamodules.errors import DataError
from datamodules.files.names import key

MIXTURE = "mixture"
# Order of the audio streams in a .stem.mp4 of MUSDB18.
STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")

# MUSDB18's own files call the vocals "Vox", in the box ``stem``.
_SYNONYMS = {"vox": "vocals", "mix": MIXTURE, "master": MIXTURE}
_LONGEST_NAME = 2**16  # bytes
# Names that programs write by default.
_HANDLERS = ("", "soundhandler", "soundhandle", "stereo", "core media audio")
_RENAME = (
    "name the streams, for instance by: ffmpeg -i OLD -map 0 -c copy -metadata:s:a:0 title=mixture "
    "-metadata:s:a:1 title=vocals (and so on) NEW.stem.mp4"
)


class StreamOrder(NamedTuple):
    """The stems that the audio streams of a file are.

    Attributes:
        names: Stem, or ``mixture``, of each stream; empty for a stream that is not read.
        note: What was assumed; empty if nothing was.
    """

    names: tuple[str, ...]
    note: str = ""


def read_stream_names(path: Path) -> list[list[str]]:
    """Names of the audio streams of an MP4 file, from each place where a file may have them.

    Args:
        path: The file.

    Returns:
        One list per place, most reliable first: titles of the streams, names of their handlers,
        and the box ``stem`` of DJ programs, whose first stream is the mixture. A stream without a
        name has an empty one. All lists are empty if the file cannot be read or is not MP4.
    """
    try:
        file = path.open("rb")
    except OSError:  # its cause is reported when the streams are decoded
        return [[], [], []]
    with file:
        whole = (0, os.fstat(file.fileno()).st_size)
        moov = next(_find(file, whole, b"moov"), (0, 0))
        titles, handlers = [], []
        for trak in _find(file, moov, b"trak"):
            handler = next((_read(file, box) for box in _find(file, trak, b"mdia", b"hdlr")), b"")
            if handler[8:12] == b"soun":
                titles.append(_title(file, trak))
                handlers.append(_text(handler[24:]))
        box = next((_read(file, box) for box in _find(file, moov, b"udta", b"stem")), b"")
    return [titles, handlers, _names_in_stem_box(box, len(titles))]


def order_streams(path: Path, names: Sequence[Sequence[str]], stems: Sequence[str]) -> StreamOrder:
    """Determine the stem of each audio stream: by name if they have names, else as in MUSDB18.

    Args:
        path: The file, for messages.
        names: Result of `read_stream_names`.
        stems: Names of the data set's stems.

    Raises:
        DataError: Two streams have the same name, or those without one could be several stems.
    """
    known = _SYNONYMS | {key(name): name for name in (*STREAMS, *stems)}
    by_place = [[known.get(key(name.strip()), "") for name in place] for place in names]
    if not any(map(any, by_place)):
        return StreamOrder(STREAMS, _unknown_names_note(names))
    recognised = list(zip_longest(*by_place, fillvalue=""))
    # Each stream has the name in the first place that has a stem's name for it.
    found = [next(filter(None, each), "") for each in recognised]
    shown = ", ".join(map(_shown, zip_longest(*names, fillvalue=""), recognised))
    twice = sorted({name for name in found if name and found.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: several of its audio streams are named {' and '.join(twice)} ({shown}), "
            f"expected one of each; {_RENAME}"
        )
    note = _contradiction(found, by_place)
    missing = [name for name in (MIXTURE, *stems) if name not in found]
    unnamed = [number for number, name in enumerate(found) if not name]
    if not missing or not unnamed:
        return StreamOrder(tuple(found), note)
    if len(missing) == len(unnamed) == 1:
        found[unnamed[0]] = missing[0]
        note = note or (
            f"its audio streams are named {shown}: stream {unnamed[0] + 1} is read as "
            f"{missing[0]}, the only one without a stream"
        )
        return StreamOrder(tuple(found), note)
    if len(found) >= len(STREAMS) and all(
        not name or name == STREAMS[number] for number, name in enumerate(found[: len(STREAMS)])
    ):
        return StreamOrder(
            STREAMS,
            f"some of its audio streams are not named after a stem ({shown}): the order of "
            f"MUSDB18 is assumed ({', '.join(STREAMS)})",
        )
    raise DataError(
        f"{path}: its audio streams are named {shown}, expected names for "
        f"{', '.join(missing)} too; {_RENAME}"
    )


def _shown(names: Sequence[str], recognised: Sequence[str]) -> str:
    """Name of a stream as it is in the file."""
    for name, stem in zip(names, recognised, strict=True):
        if stem:
            return name
    return next((name for name in names if key(name) not in _HANDLERS), "(no name)")


def _unknown_names_note(names: Sequence[Sequence[str]]) -> str:
    for place in names:
        given = [name.strip() for name in place]
        if len({key(name) for name in given} - set(_HANDLERS)) > 1:
            return (
                f"its audio streams are named {', '.join(given)}, not after stems: the order of "
                f"MUSDB18 is assumed ({', '.join(STREAMS)})"
            )
    return ""


def _contradiction(found: Sequence[str], by_place: Sequence[Sequence[str]]) -> str:
    """Note on streams that another place names after another stem."""
    for place in by_place:
        if any(name and name != used for name, used in zip(place, found, strict=False)):
            return (
                f"its audio streams have two sets of names: {', '.join(found)}, which are used, "
                f"and {', '.join(place)}"
            )
    return ""


Box = tuple[int, int]
"""First byte of a box's content, and of what follows it."""


def _boxes(file: BinaryIO, inside: Box) -> Iterator[tuple[bytes, Box]]:
    """Type and content of the boxes in a box; ends where they are not valid."""
    position, end = inside
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, start = int.from_bytes(header[:4], "big"), position + 8
        if size == 1:  # a 64-bit size follows
            size, start = int.from_bytes(header[8:16], "big"), position + 16
        stop = position + size if size else end
        if stop < start or stop > end:
            return
        yield header[4:8], (start, stop)
        position = stop


def _find(file: BinaryIO, inside: Box, *types: bytes) -> Iterator[Box]:
    """Boxes of the last type, in boxes of the types before it."""
    for found, box in _boxes(file, inside):
        if found == types[0]:
            yield from _find(file, box, *types[1:]) if types[1:] else [box]


def _read(file: BinaryIO, box: Box) -> bytes:
    file.seek(box[0])
    return file.read(min(box[1] - box[0], _LONGEST_NAME))


def _title(file: BinaryIO, trak: Box) -> str:
    """Title of a stream, as ffmpeg (``name``), QuickTime (``©nam``) or iTunes (``ilst``) has it."""
    for box in _find(file, trak, b"udta", b"name"):
        return _text(_read(file, box))
    for box in _find(file, trak, b"udta", b"\xa9nam"):
        return _text(_read(file, box)[4:])  # after length and language
    for start, stop in _find(file, trak, b"udta", b"meta"):
        # ``meta`` has four bytes before its boxes; so does ``data`` twice.
        for box in _find(file, (start + 4, stop), b"ilst", b"\xa9nam", b"data"):
            return _text(_read(file, box)[8:])
    return ""


def _text(content: bytes) -> str:
    """Text with a null at its end (ISO) or its length in front (QuickTime)."""
    if content and content[0] == len(content) - 1:
        content = content[1:]
    return content.strip(b"\0").decode("utf-8", errors="replace").strip()


def _names_in_stem_box(content: bytes, streams: int) -> list[str]:
    try:
        parts: Any = json.loads(content)["stems"]
        names = [str(part["name"]) for part in parts]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    return [MIXTURE, *names] if len(names) == streams - 1 else []

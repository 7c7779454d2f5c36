"""Tags of audio files: title, artist, album and so on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import soundfile

from datamodules.files import ffmpeg
from datamodules.files.audio import UnknownFormatError, open_sound_file

# soundfile's names; ffprobe's are the same except ``track``.
NAMES = ("title", "artist", "album", "date", "genre", "tracknumber", "copyright", "comment")


def read_tags(path: Path) -> dict[str, str]:
    """Read the tags in ``NAMES`` that a song has; unreadable tags are left out."""
    try:
        with open_sound_file(path) as file:
            if file.format != "RAW":  # a WAV with an unfinished header
                return tags_of(file)
    except UnknownFormatError:
        pass
    return probe_tags(path)


def tags_of(file: soundfile.SoundFile) -> dict[str, str]:
    """Return the tags of an open file, as ``read_tags`` does."""
    return _present({name: getattr(file, name) for name in NAMES})


def probe_tags(path: Path) -> dict[str, str]:
    """Read the tags of a file through ffprobe, if it is installed, as ``read_tags`` does."""
    if shutil.which("ffprobe") is None:
        return {}
    content, _ = ffmpeg.probe(path, "-show_entries", "format_tags:stream_tags")
    # Ogg stores tags in the stream, MP4 in the container.
    parts = [*content.get("streams", [])[:1], content.get("format", {})]
    tags = {name.lower(): value for part in parts for name, value in part.get("tags", {}).items()}
    return _present(tags | {"tracknumber": tags.get("track", "")})


def _present(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: tags[name].strip() for name in NAMES if tags.get(name, "").strip()}

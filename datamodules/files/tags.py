"""Tags of audio files: title, artist, album and so on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import soundfile

# soundfile's names; ffprobe's are the same except ``track``.
NAMES = ("title", "artist", "album", "date", "genre", "tracknumber", "copyright", "comment")


def read_tags(path: Path) -> dict[str, str]:
    """Read the tags of a song; tags that cannot be read are left out.

    Args:
        path: An audio file of any format that soundfile or ffmpeg reads.

    Returns:
        Those of ``NAMES`` that are present.
    """
    try:
        with soundfile.SoundFile(path) as file:
            return tags_of(file)
    except (soundfile.SoundFileError, TypeError):
        return probe_tags(path)


def tags_of(file: soundfile.SoundFile) -> dict[str, str]:
    """Return the tags of an open file, as ``read_tags`` does."""
    return _present({name: getattr(file, name) for name in NAMES})


def probe_tags(path: Path) -> dict[str, str]:
    """Read the tags of a file through ffprobe, if it is installed, as ``read_tags`` does."""
    if shutil.which("ffprobe") is None:
        return {}
    command = ["ffprobe", "-v", "error", "-show_entries", "format_tags:stream_tags"]
    answer = subprocess.run(
        [*command, "-of", "json", f"file:{path}"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if answer.returncode:
        return {}
    content = json.loads(answer.stdout)
    # Ogg stores tags in the stream, MP4 in the container.
    parts = [*content.get("streams", [])[:1], content.get("format", {})]
    tags = {name.lower(): value for part in parts for name, value in part.get("tags", {}).items()}
    return _present(tags | {"tracknumber": tags.get("track", "")})


def _present(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: tags[name].strip() for name in NAMES if tags.get(name, "").strip()}

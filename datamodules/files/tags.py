"""What a file says of the song in it: title, artist, album."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import soundfile

# soundfile's names; ffprobe's are the same but for the number.
NAMES = ("title", "artist", "album", "date", "genre", "tracknumber", "copyright", "comment")


def read_tags(path: Path) -> dict[str, str]:
    """Read the tags of a song, as far as they can be read: none are no fault.

    Args:
        path: An audio file of any format that soundfile or ffmpeg reads.

    Returns:
        Those of ``NAMES`` that are there.
    """
    try:
        with soundfile.SoundFile(path) as file:
            found = {name: getattr(file, name) for name in NAMES}
    except (soundfile.SoundFileError, TypeError):
        found = _probed(path)
    return {name: found[name].strip() for name in NAMES if found.get(name, "").strip()}


def _probed(path: Path) -> dict[str, str]:
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
    # An Ogg's tags belong to its stream, an MP4's to the file.
    parts = [*content.get("streams", [])[:1], content.get("format", {})]
    tags = {name.lower(): value for part in parts for name, value in part.get("tags", {}).items()}
    return tags | {"tracknumber": tags.get("track", "")}

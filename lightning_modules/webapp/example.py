"""A song to try the app with, rendered by this program."""

from __future__ import annotations

import threading
from pathlib import Path

import soundfile

from datamodules.demo.corpus import SONGS, TEST_TRACKS
from datamodules.demo.mix import render_track
from datamodules.demo.synthesis import SAMPLE_RATE
from datamodules.files.writing import replacing

_NUMBER = SONGS.index(TEST_TRACKS[0])
_lock = threading.Lock()


def example_song(uploads: Path) -> Path:
    """Render a song of the demo corpus, about 20 s long, unless it is there.

    Args:
        uploads: Folder of uploads.

    Returns:
        The file, a FLAC of the mixture below the folder.
    """
    path = uploads / "example" / f"{SONGS[_NUMBER]}.flac"
    with _lock:
        path.parent.mkdir(exist_ok=True)
        if path.is_file():
            path.touch()  # unused uploads are deleted
        else:
            mixture = sum(render_track(0, _NUMBER).values())
            with replacing(path) as unfinished:
                soundfile.write(unfinished, mixture, SAMPLE_RATE, format="FLAC")
    return path

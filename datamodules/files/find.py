"""Find songs by the files, folders and patterns that a user gives."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files.audio import AudioInfo, inspect

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mp4", ".aac", ".aiff", ".aif", ".opus")


def find_audio_files(inputs: Iterable[str | Path]) -> dict[Path, AudioInfo]:
    """Find audio files and read their headers.

    Args:
        inputs: Audio files, folders, or patterns such as ``albums/**/*.flac``.

    Returns:
        File -> header; files of a folder or pattern are sorted by name.

    Raises:
        DataError: A path does not exist, a file is not audio, a folder or pattern has no audio
            file, or two songs have the same name.
    """
    songs: dict[str, Path] = {}
    infos: dict[Path, AudioInfo] = {}
    for path in map(Path, inputs):
        found = [path]
        if path.is_dir():
            found = _audio_of(path.iterdir())
            if not found:
                raise DataError(f"{path}: no audio file in this folder ({', '.join(SUFFIXES)})")
        elif not path.exists() and glob.has_magic(str(path)):
            found = _audio_of(map(Path, glob.iglob(str(path), recursive=True)))
            if not found:
                raise DataError(f"{path}: no audio file matches this ({', '.join(SUFFIXES)})")
        for song in found:
            infos[song] = inspect(song)
            name = song_name(song)
            if name in songs:
                raise DataError(
                    f"{songs[name]} and {song} would both be written to {name}/: "
                    "rename one, or separate them one at a time"
                )
            songs[name] = song
    return infos


def _audio_of(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and path.suffix.lower() in SUFFIXES)


def song_name(song: Path) -> str:
    """Name of a song, and of the folder for its stems.

    Args:
        song: The audio file.

    Returns:
        The file's name without suffix; for a ``mixture`` of MUSDB18-HQ the name of the track.
    """
    if song.stem == "mixture" and song.resolve().parent.name:
        return song.resolve().parent.name
    return song.name.removesuffix(".stem.mp4") if song.name.endswith(".stem.mp4") else song.stem

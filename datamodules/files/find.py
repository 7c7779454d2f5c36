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
        found, where = [path], ""
        if path.is_dir():
            found, where = _audio_of(path.iterdir()), "in this folder"
        elif not path.exists() and glob.has_magic(str(path)):
            matches = map(Path, glob.iglob(str(path), recursive=True))
            found, where = _audio_of(matches), "matches this"
        if not found:
            raise DataError(f"{path}: no audio file {where} ({', '.join(SUFFIXES)})")
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
    """Name of a song: the file's without suffix, or the track's for MUSDB18-HQ's ``mixture``."""
    if song.stem == "mixture" and song.resolve().parent.name:
        return song.resolve().parent.name
    return song.name.removesuffix(".stem.mp4") if song.name.endswith(".stem.mp4") else song.stem

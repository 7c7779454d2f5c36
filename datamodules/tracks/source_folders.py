"""Folders of files per stem, such as ``vocals/*.wav``: type 2 of MSST, SourceFolder of Open-Unmix.

The files are of different songs. In training each is drawn for its own stem only; for validation
and test, the first file of each stem makes up the first track, and so on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.files.names import key, suffix_of, without_suffix
from datamodules.tracks.entries import FORMATS, MIXTURE, Entry, folders_named, is_audio


def source_folders(folder: Path, stems: Sequence[str]) -> dict[str, Path]:
    """Find the folders of files per stem: stem -> its folder; empty if ``folder`` has tracks.

    A folder named as a stem is that of a track if it contains a file named as a stem.
    """
    names = {key(name) for name in (*stems, MIXTURE)}
    by_key = {key(stem): stem for stem in stems}
    found: dict[str, Path] = {}
    for path in folders_named(folder, stems):
        audio = [name for name in os.listdir(path) if is_audio(name)]
        if audio and not any(key(without_suffix(name)) in names for name in audio):
            found.setdefault(by_key[key(path.name)], path)
    return found


def entries_of_sources(folders: Mapping[str, Path], subset: str) -> list[Entry]:
    """List the files of each stem as tracks of their own; for validation and test combined."""
    files = {stem: _files(folder) for stem, folder in folders.items()}
    entries = loose_entries(files, subset)
    return entries if subset == "train" else combine(entries)


def loose_entries(files: Mapping[str, Sequence[Path]], subset: str) -> list[Entry]:
    """A track for each file, of one stem: stem -> its files."""
    return [
        Entry(f"{stem}/{file.stem}", subset, file, file, parts={stem: (file,)}, unaligned=True)
        for stem, stem_files in files.items()
        for file in stem_files
    ]


def combine(entries: Sequence[Entry]) -> list[Entry]:
    """Combine tracks of one stem in a subset to tracks of all stems; leave other tracks.

    The number of tracks is that of the stem with the most files; files of other stems are repeated.
    """
    combined = [entry for entry in entries if not entry.is_loose]
    by_stem: dict[str, list[Path]] = {}
    for entry in entries:
        if entry.is_loose:
            ((stem, files),) = (entry.parts or {}).items()
            by_stem.setdefault(stem, []).extend(files)
    most = max(by_stem.values(), key=len, default=[])
    for number, path in enumerate(most):
        parts = {stem: (files[number % len(files)],) for stem, files in by_stem.items()}
        name = f"{number + 1:0{len(str(len(most)))}d} {path.stem}"
        combined.append(Entry(name, entries[0].subset, path, path, parts=parts, unaligned=True))
    return combined


def _files(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    return [folder / name for name in names if is_audio(name) and suffix_of(name) in FORMATS]

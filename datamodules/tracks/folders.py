"""Folders of tracks, with a file per stem or a .stem.mp4, and folders of files per stem.

A root has ``{train,test}/<track>/{mixture,vocals,drums,bass,other}.{wav,flac,ogg}`` (MUSDB18-HQ,
which ``musdb.DB(is_wav=True)`` reads too), ``{train,test}/<track>.stem.mp4`` (MUSDB18), or both,
and may have a validation subset ``valid`` (or ``validation``, ``val``). DSD100 has
``Mixtures/{Dev,Test}/<track>`` and ``Sources/{Dev,Test}/<track>``; Dev is the training subset. A
folder of track folders without ``train`` and ``test`` is a training subset. In place of tracks a
subset may have a folder per stem with any number of files, which are of different songs. Names are
compared without letter case and Unicode form.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files.names import is_stem_file, is_system_name, key, match, without_suffix
from datamodules.tracks.entries import (
    STEMS,
    SUBSET_FOLDERS,
    SUBSETS,
    Entry,
    audio_below,
    files_in,
    folders_named,
    is_audio,
)
from datamodules.tracks.source_folders import entries_of_sources, source_folders

EXPECTED = (
    "{train,test}/<track>/{mixture,vocals,drums,bass,other}.wav (or .flac, .ogg), "
    "or {train,test}/<track>.stem.mp4"
)
_DSD100 = {"train": "Dev", "test": "Test"}


class TrackFolders:
    """The layout of MUSDB18, DSD100 and folders of one's own."""

    name = "folders"

    def recognises(self, root: Path) -> bool:
        """Every folder may be one; `find_entries` says what is missing."""
        return True

    def subsets(self, root: Path, stems: Sequence[str]) -> list[str]:
        """Subsets that have a folder; a folder ``valid`` without tracks is no subset."""
        return [subset for subset in SUBSETS if subset_folders(root, subset, stems)]

    def entries(self, root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
        """Find the tracks of a subset."""
        folders = subset_folders(root, subset, stems)
        if folders is None:
            raise no_subset(root, subset)
        folder, mixtures = folders
        entries = _entries_in(folder, subset, stems)
        if not entries:
            raise _no_tracks(root, folder)
        if mixtures == folder or not mixtures.is_dir():
            return entries
        names = match([entry.path.name for entry in entries], os.listdir(mixtures))
        return [
            replace(entry, mixture_folder=mixtures / names.get(entry.path.name, entry.path.name))
            for entry in entries
        ]


def _entries_in(folder: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
    if sources := source_folders(folder, stems):
        return entries_of_sources(sources, subset)
    with os.scandir(folder) as content:  # saves a system call per track
        items = sorted(
            (item.name, item.is_dir()) for item in content if not is_system_name(item.name)
        )
    entries = []
    for name, is_folder in items:
        path = folder / name
        content_names = tuple(os.listdir(path)) if is_folder else ()
        if any(map(is_audio, content_names)):
            entries.append(Entry(name, subset, path, path, False, content_names))
    # A folder replaces a .stem.mp4 of the same name.
    names = {key(entry.name) for entry in entries}
    for name, is_folder in items:
        track = without_suffix(name)
        if not is_folder and is_stem_file(name) and key(track) not in names:
            entries.append(Entry(track, subset, folder / name, folder / name, True))
    return sorted(entries, key=lambda entry: entry.name)


def subset_folders(
    root: Path, subset: str, stems: Sequence[str] = STEMS
) -> tuple[Path, Path] | None:
    """Folder of a subset's stems, and of its mixtures; None if the root has no such subset."""
    for folder in folders_named(root, SUBSET_FOLDERS[subset]):
        if subset != "valid" or _entries_in(folder, subset, stems):
            return folder, folder
    for sources in folders_named(root, ["Sources"]) if subset in _DSD100 else ():
        for dsd100 in folders_named(sources, [_DSD100[subset]]):
            mixtures = [*folders_named(root, ["Mixtures"]), root / "Mixtures"][0]
            parts = folders_named(mixtures, [_DSD100[subset]])
            return dsd100, [*parts, mixtures / _DSD100[subset]][0]
    if subset == "train" and _is_folder_of_tracks(root, stems):
        return root, root
    return None


def _is_folder_of_tracks(root: Path, stems: Sequence[str]) -> bool:
    if not root.is_dir() or _is_subset(root) or folders_named(root, ["train", "test", "Sources"]):
        return False
    if source_folders(root, stems):
        return True
    with os.scandir(root) as content:
        return any(
            is_stem_file(item.name) or (item.is_dir() and files_in(Path(item.path), stems))
            for item in content
            if not is_system_name(item.name)
        )


def _is_subset(root: Path) -> bool:
    # A root that is a subset by mistake is refused: the model could be trained on the test tracks.
    path = root.resolve()
    name = key(path.name)
    if name in SUBSET_FOLDERS["valid"]:
        return bool(folders_named(path.parent, ["train"]))
    return name in ("train", "test") or path.name in _DSD100.values()


def _no_tracks(root: Path, folder: Path) -> DataError:
    found = f"found: {', '.join(sorted(os.listdir(folder))[:3]) or 'nothing'}"
    if audio := audio_below(folder):
        found += f", and audio in {audio.relative_to(folder)}"
    return DataError(
        f"{folder}: no tracks in it ({found}); expected {EXPECTED} in {root}; check the path, or "
        "copy the tracks there"
    )


def no_subset(root: Path, subset: str) -> DataError:
    """The error for a root without a subset: what it is, and what was probably meant."""
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        return DataError(f"{root}: {fault}; expected {EXPECTED} in it; check the path of the root")
    advice = "check the path of the root"
    names = SUBSET_FOLDERS[subset]
    if _is_subset(root):
        advice = f"the root must be the folder above it: {root.resolve().parent}"
    elif below := [path for path in _folders_in(root) if folders_named(path, names)]:
        advice = f"did you mean {below[0]}?"
    return DataError(f"{root}: has no folder {subset!r}; expected {EXPECTED} in it; {advice}")


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())

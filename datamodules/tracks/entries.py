"""Tracks on disk whose files have not been read, and the names by which they are found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.files.find import SUFFIXES
from datamodules.files.names import is_system_name, key, match, suffix_of
from datamodules.files.stream_names import MIXTURE as MIXTURE

STEMS = ("vocals", "drums", "bass", "other")
FORMATS = (".wav", ".flac", ".ogg")
SUBSETS = ("train", "valid", "test")
# Names of a subset's folder; if there are several folders, the first one is read.
SUBSET_FOLDERS = {"train": ["train"], "valid": ["valid", "validation", "val"], "test": ["test"]}

# Largest number of folders in which `audio_below` looks.
_FOLDERS_SEARCHED = 1000


@dataclass(frozen=True)
class Entry:
    """A track on disk, whose files have not been read.

    Attributes:
        name: Name of the track.
        subset: ``train``, ``valid`` or ``test``.
        path: Folder of its stems, or its .stem.mp4; for tracks with ``parts`` a folder or file that
            stands for the track in messages, different for each track.
        mixture_folder: Folder of its mixture, which is ``path`` except in DSD100.
        is_stem_file: Whether ``path`` is a .stem.mp4.
        content: Names in the folder of its stems, if it has been listed.
        parts: Stem, or ``mixture`` -> the files whose sum it is; None if the files are found in
            ``path`` by their names.
        complete: Whether everything in the track has been assigned to a stem, so that a stem
            without files is silent.
        unaligned: Whether its files are of different songs, or it is one file of one stem.
        unassigned: Names of its instruments that belong to no stem and are not read.
        has_bleed: Whether its data set says that files contain other instruments than their own.
    """

    name: str
    subset: str
    path: Path
    mixture_folder: Path
    is_stem_file: bool = False
    content: tuple[str, ...] | None = field(default=None, compare=False)
    parts: Mapping[str, tuple[Path, ...]] | None = field(default=None, compare=False)
    complete: bool = False
    unaligned: bool = False
    unassigned: tuple[str, ...] = ()
    has_bleed: bool = False

    @property
    def is_loose(self) -> bool:
        """Whether the track is one file of one stem, as in a folder of files per stem."""
        return self.unaligned and len(self.parts or ()) == 1

    def find(self, stems: Sequence[str]) -> dict[str, tuple[Path, ...]]:
        """Find the files of stems and, last, the ``mixture``: name -> files whose sum it is.

        WAV is preferred to FLAC and Ogg.
        """
        if self.parts is not None:
            return {name: self.parts[name] for name in (*stems, MIXTURE) if name in self.parts}
        if self.mixture_folder == self.path:
            return _each(files_in(self.path, (*stems, MIXTURE), self.content))
        files = files_in(self.path, stems, self.content)
        if self.mixture_folder.is_dir():  # may be missing in DSD100
            files |= files_in(self.mixture_folder, [MIXTURE])
        return _each(files)


def _each(files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    return {name: (path,) for name, path in files.items()}


def files_in(
    folder: Path, stems: Sequence[str], content: Iterable[str] | None = None
) -> dict[str, Path]:
    """Find the stems that exist in a folder: stem name -> file, in the given order.

    ``content`` are the names in the folder, if it has been listed.
    """
    names = {stem + suffix: stem for stem in stems for suffix in FORMATS}
    present = match(names, os.listdir(folder) if content is None else content)
    files: dict[str, Path] = {}
    for name, file in present.items():  # the preferred format comes first
        files.setdefault(names[name], folder / file)
    return files


def is_audio(name: str) -> bool:
    """Whether a file's name has a suffix of audio, and is not that of a system file."""
    return suffix_of(name) in SUFFIXES and not is_system_name(name)


def audio_below(folder: Path) -> Path | None:
    """The first audio file in a folder or the folders below it, among the first 1,000 of them."""
    for number, (place, folders, files) in enumerate(os.walk(folder)):
        if found := next(filter(is_audio, sorted(files)), None):
            return Path(place, found)
        folders[:] = sorted(name for name in folders if not is_system_name(name))
        if number == _FOLDERS_SEARCHED:
            break
    return None


def folders_named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Subfolders that have one of these names, in the order of the names."""
    keys = [key(name) for name in names]
    try:
        with os.scandir(folder) as content:
            found = [item.name for item in content if key(item.name) in keys and item.is_dir()]
    except OSError:
        return []
    found.sort(key=lambda name: (keys.index(key(name)), name not in names, name))
    return [folder / name for name in found]

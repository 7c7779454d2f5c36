"""Layouts of data sets, recognised by their folders.

A root has ``{train,test}/<track>/{mixture,vocals,drums,bass,other}.{wav,flac,ogg}`` (MUSDB18-HQ,
which ``musdb.DB(is_wav=True)`` reads too), ``{train,test}/<track>.stem.mp4`` (MUSDB18), or both,
and may have a validation subset ``valid`` (or ``validation``, ``val``). DSD100 has
``Mixtures/{Dev,Test}/<track>`` and ``Sources/{Dev,Test}/<track>``; Dev is the training subset. A
folder of track folders without ``train`` and ``test`` is a training subset. Names are compared
without letter case and Unicode form.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files.find import SUFFIXES
from datamodules.files.names import (
    is_stem_file,
    is_system_name,
    key,
    match,
    suffix_of,
    without_suffix,
)
from datamodules.files.stream_names import MIXTURE as MIXTURE

STEMS = ("vocals", "drums", "bass", "other")
FORMATS = (".wav", ".flac", ".ogg")
SUBSETS = ("train", "valid", "test")
# Names of a subset's folder; if there are several folders, the first one is read.
SUBSET_FOLDERS = {"train": ["train"], "valid": ["valid", "validation", "val"], "test": ["test"]}

_LAYOUT = (
    "{train,test}/<track>/{mixture,vocals,drums,bass,other}.wav (or .flac, .ogg), "
    "or {train,test}/<track>.stem.mp4"
)
_DSD100 = {"train": "Dev", "test": "Test"}
# Largest number of folders in which `audio_below` looks.
_FOLDERS_SEARCHED = 1000


@dataclass(frozen=True)
class Entry:
    """A track on disk, whose files have not been read.

    Attributes:
        name: Name of the track.
        subset: ``train``, ``valid`` or ``test``.
        path: Folder of its stems, or its .stem.mp4.
        mixture_folder: Folder of its mixture, which is ``path`` except in DSD100.
        is_stem_file: Whether ``path`` is a .stem.mp4.
        content: Names in the folder of its stems, if it has been listed.
    """

    name: str
    subset: str
    path: Path
    mixture_folder: Path
    is_stem_file: bool = False
    content: tuple[str, ...] | None = field(default=None, compare=False)

    def find(self, stems: Sequence[str]) -> dict[str, Path]:
        """Find the files of stems and, last, the ``mixture``; WAV is preferred to FLAC and Ogg."""
        if self.mixture_folder == self.path:
            return files_in(self.path, (*stems, MIXTURE), self.content)
        files = files_in(self.path, stems, self.content)
        if self.mixture_folder.is_dir():  # may be missing in DSD100
            files |= files_in(self.mixture_folder, [MIXTURE])
        return files


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


def subsets_of(root: str | Path, stems: Sequence[str] = STEMS) -> list[str]:
    """Find the subsets of a root, such as ``train`` and ``test``; raise ``DataError`` without one.

    A folder ``valid`` without tracks is no subset.
    """
    root = Path(root).expanduser()
    found = [subset for subset in SUBSETS if subset_folders(root, subset, stems)]
    if not found:
        raise _no_subset(root, SUBSETS[0])
    return found


def weighted_roots(root: str | Mapping[str, float] | None) -> dict[str, float]:
    """Convert the setting ``root`` to root -> weight (relative frequency); empty for None.

    Raises:
        DataError: A weight is not above 0, or the mapping is empty.
    """
    if not isinstance(root, Mapping):
        return {root: 1.0} if root else {}
    if not root:
        raise DataError(
            "root is an empty mapping: must be a folder, or folders with weights, as in "
            "{/data/musdb18hq: 1.0, /data/extra: 0.5}"
        )
    for folder, weight in root.items():
        if not 0 < weight < math.inf:
            raise DataError(
                f"root: the weight of {folder} is {weight}: must be a number above 0; correct "
                "it, or remove the folder from root"
            )
    return dict(root)


def find_entries(root: str | Path, subset: str, stems: Sequence[str] = STEMS) -> list[Entry]:
    """Find the tracks of a subset, sorted by name; raise a ``DataError`` if there are none.

    Folders without audio files, and those of systems such as ``@eaDir``, are not tracks. A folder
    of tracks without subsets is recognised by the names of the stems.
    """
    root = Path(root).expanduser()
    folders = subset_folders(root, subset, stems)
    if folders is None:
        raise _no_subset(root, subset)
    folder, mixtures = folders
    entries = _entries_in(folder, subset)
    if not entries:
        raise _no_tracks(root, folder)
    if mixtures == folder or not mixtures.is_dir():
        return entries
    names = match([entry.path.name for entry in entries], os.listdir(mixtures))
    return [
        replace(entry, mixture_folder=mixtures / names.get(entry.path.name, entry.path.name))
        for entry in entries
    ]


def _entries_in(folder: Path, subset: str) -> list[Entry]:
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
        if subset != "valid" or _entries_in(folder, subset):
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
        f"{folder}: no tracks in it ({found}); expected {_LAYOUT} in {root}; check the path, or "
        "copy the tracks there"
    )


def _no_subset(root: Path, subset: str) -> DataError:
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        return DataError(f"{root}: {fault}; expected {_LAYOUT} in it; check the path of the root")
    advice = "check the path of the root"
    names = SUBSET_FOLDERS[subset]
    if _is_subset(root):
        advice = f"the root must be the folder above it: {root.resolve().parent}"
    elif below := [path for path in _folders_in(root) if folders_named(path, names)]:
        advice = f"did you mean {below[0]}?"
    return DataError(f"{root}: has no folder {subset!r}; expected {_LAYOUT} in it; {advice}")


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())

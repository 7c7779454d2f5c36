"""Layouts of data sets, recognised by their folders.

A root has ``{train,test}/<track>/{mixture,vocals,drums,bass,other}.{wav,flac,ogg}`` (MUSDB18-HQ,
which ``musdb.DB(is_wav=True)`` reads too), ``{train,test}/<track>.stem.mp4`` (MUSDB18), or both.
DSD100 has ``Mixtures/{Dev,Test}/<track>`` and ``Sources/{Dev,Test}/<track>``; Dev is the training
subset. A folder of track folders without ``train`` and ``test`` is a training subset.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files.stream_names import MIXTURE as MIXTURE

STEMS = ("vocals", "drums", "bass", "other")
FORMATS = (".wav", ".flac", ".ogg")
SUBSETS = ("train", "test")

_STEM_FILE_SUFFIX = ".stem.mp4"
_LAYOUT = (
    "{train,test}/<track>/{mixture,vocals,drums,bass,other}.wav (or .flac, .ogg), "
    "or {train,test}/<track>.stem.mp4"
)
_DSD100 = {"train": "Dev", "test": "Test"}


@dataclass(frozen=True)
class Entry:
    """A track on disk, whose files have not been read.

    Attributes:
        name: Name of the track.
        subset: ``train`` or ``test``.
        path: Folder of its stems, or its .stem.mp4.
        mixture_folder: Folder of its mixture, which is ``path`` except in DSD100.
        is_stem_file: Whether ``path`` is a .stem.mp4.
    """

    name: str
    subset: str
    path: Path
    mixture_folder: Path
    is_stem_file: bool = False

    def find(self, stems: Sequence[str]) -> dict[str, Path]:
        """Find the files of stems and, last, the ``mixture``; WAV is preferred to FLAC and Ogg."""
        if self.mixture_folder == self.path:
            return files_in(self.path, (*stems, MIXTURE))
        files = files_in(self.path, stems)
        if self.mixture_folder.is_dir():  # may be missing in DSD100
            files |= files_in(self.mixture_folder, [MIXTURE])
        return files


def files_in(folder: Path, stems: Sequence[str]) -> dict[str, Path]:
    """Find the stems that exist in a folder: stem name -> file, in the given order."""
    present = set(os.listdir(folder))
    # The preferred format comes last and replaces the others.
    names = [(stem, stem + suffix) for stem in stems for suffix in reversed(FORMATS)]
    return {stem: folder / name for stem, name in names if name in present}


def subsets_of(root: str | Path, stems: Sequence[str] = STEMS) -> list[str]:
    """Find the subsets of a root, ``train`` and ``test``; raise ``DataError`` if there is none."""
    root = Path(root).expanduser()
    found = [subset for subset in SUBSETS if _folders(root, subset, stems)]
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

    A folder of tracks without subsets is recognised by the names of the stems.
    """
    root = Path(root).expanduser()
    folders = _folders(root, subset, stems)
    if folders is None:
        raise _no_subset(root, subset)
    folder, mixtures = folders
    paths = _tracks_in(folder)
    if not paths:
        names = sorted(path.name for path in folder.iterdir())[:3]
        raise DataError(
            f"{folder}: no tracks in it (found: {', '.join(names) or 'nothing'}); expected "
            f"{_LAYOUT} in {root}; check the path, or copy the tracks there"
        )
    # Folders last, so that they replace a .stem.mp4 of the same name.
    paths.sort(key=lambda path_and_is_folder: path_and_is_folder[1])
    tracks = {path.name.removesuffix(_STEM_FILE_SUFFIX): (path, folder) for path, folder in paths}
    return [
        Entry(name, subset, path, mixtures / path.name, not is_folder)
        for name, (path, is_folder) in sorted(tracks.items())
    ]


def _folders(root: Path, subset: str, stems: Sequence[str]) -> tuple[Path, Path] | None:
    """Folder of a subset's stems, and of its mixtures."""
    if (root / subset).is_dir():
        return root / subset, root / subset
    dsd100 = root / "Sources" / _DSD100[subset]
    if dsd100.is_dir():
        return dsd100, root / "Mixtures" / _DSD100[subset]
    if subset == "train" and _is_folder_of_tracks(root, stems):
        return root, root
    return None


def _is_folder_of_tracks(root: Path, stems: Sequence[str]) -> bool:
    # A root that is a subset by mistake is refused: the model could be trained on the test tracks.
    parts = (*SUBSETS, "Sources")
    if not root.is_dir() or root.resolve().name in (*SUBSETS, *_DSD100.values()):
        return False
    return not any((root / part).is_dir() for part in parts) and any(
        path.name.endswith(_STEM_FILE_SUFFIX)
        or any((path / (stem + suffix)).is_file() for stem in stems for suffix in FORMATS)
        for path, _ in _tracks_in(root)
    )


def _tracks_in(folder: Path) -> list[tuple[Path, bool]]:
    """Possible tracks, and whether each is a folder; scandir saves a system call per track."""
    with os.scandir(folder) as content:
        return [
            (folder / item.name, item.is_dir())
            for item in content
            if not item.name.startswith(".")
            and (item.name.endswith(_STEM_FILE_SUFFIX) or item.is_dir())
        ]


def _no_subset(root: Path, subset: str) -> DataError:
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        return DataError(f"{root}: {fault}; expected {_LAYOUT} in it; check the path of the root")
    advice = "check the path of the root"
    if (resolved := root.resolve()).name in SUBSETS:
        advice = f"the root must be the folder above it: {resolved.parent}"
    elif below := sorted(path.parent for path in root.glob(f"*/{subset}")):
        advice = f"did you mean {below[0]}?"
    return DataError(f"{root}: has no folder {subset!r}; expected {_LAYOUT} in it; {advice}")

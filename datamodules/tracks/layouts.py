"""Layouts of data sets: names, recognition, and the tracks of a root.

A root is a folder or a list of files whose layout is recognised, or has the name of its layout in
front: ``/data/musdb18hq``, ``tracks.csv``, ``trackfolder_var:/data/songs``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from datamodules.errors import DataError
from datamodules.files.stream_names import MIXTURE as MIXTURE
from datamodules.tracks.entries import FORMATS as FORMATS
from datamodules.tracks.entries import STEMS as STEMS
from datamodules.tracks.entries import SUBSETS as SUBSETS
from datamodules.tracks.entries import Entry as Entry
from datamodules.tracks.folders import TrackFolders, no_subset, subset_folders
from datamodules.tracks.lists import TrackList
from datamodules.tracks.medleydb import MedleyDB, RawMedleyDB
from datamodules.tracks.moisesdb import MoisesDB
from datamodules.tracks.slakh import Slakh, SplitSlakh
from datamodules.tracks.variable_folders import VariableFolders


class Layout(Protocol):
    """Finds the tracks of data sets of one layout.

    Attributes:
        name: Name of the layout, which can precede a root.
    """

    name: str

    def recognises(self, root: Path) -> bool:
        """Whether a file or folder has this layout; looks at a few files only."""

    def subsets(self, root: Path, stems: Sequence[str]) -> list[str]:
        """Subsets of a root that exist, in the order of ``SUBSETS``."""

    def entries(self, root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
        """Tracks of a subset, sorted by name; raises a ``DataError`` if there are none."""


# In the order in which they are tried; the last one takes every folder.
_LAYOUTS: tuple[Layout, ...] = (TrackList(), MoisesDB(), Slakh(), MedleyDB(), TrackFolders())
_BY_NAME_ONLY: tuple[Layout, ...] = (
    VariableFolders(),
    RawMedleyDB(),
    SplitSlakh("slakh_redux", "redux.json"),
    SplitSlakh("slakh_split2", "splits_v2.json"),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (*_LAYOUTS, *_BY_NAME_ONLY)}


def locate(root: str | Path) -> tuple[Layout, Path]:
    """Determine the layout of a root, and its path without the name of the layout.

    Raises:
        DataError: The name in front of the path is not that of a layout.
    """
    path = path_of(root)
    if path != Path(root).expanduser():
        return LAYOUTS[str(root).partition(":")[0]], path
    if not path.exists() and (named := re.match(r"([a-z0-9_]{2,}):(?!//)", str(root))):
        raise DataError(
            f"{root}: {named[1]!r} is no layout; known are {', '.join(LAYOUTS)}; correct the name "
            "in front of the path, or leave it out to have the layout recognised"
        )
    return next(layout for layout in _LAYOUTS if layout.recognises(path)), path


def path_of(root: str | Path) -> Path:
    """Path of a root, without the name of a layout in front of it."""
    name, colon, path = str(root).partition(":")
    if colon and path and name in LAYOUTS and not Path(root).exists():
        return Path(path).expanduser()
    return Path(root).expanduser()


def subsets_of(root: str | Path, stems: Sequence[str] = STEMS) -> list[str]:
    """Find the subsets of a root, such as ``train`` and ``test``; raise ``DataError`` without one.

    A folder ``valid`` without tracks is no subset.
    """
    layout, path = locate(root)
    found = layout.subsets(path, stems)
    if not found:
        raise no_subset(path, SUBSETS[0])
    return found


def subset_place(root: str | Path, subset: str, stems: Sequence[str] = STEMS) -> Path | None:
    """Folder of a subset, or a path that stands for it in messages; None if there is none."""
    layout, path = locate(root)
    if isinstance(layout, TrackFolders):
        folders = subset_folders(path, subset, stems)
        return folders[0] if folders else None
    return path / subset if subset in layout.subsets(path, stems) else None


def find_entries(root: str | Path, subset: str, stems: Sequence[str] = STEMS) -> list[Entry]:
    """Find the tracks of a subset, sorted by name; raise a ``DataError`` if there are none.

    Folders without audio files, and those of systems such as ``@eaDir``, are not tracks. A folder
    of tracks without subsets is recognised by the names of the stems.
    """
    layout, path = locate(root)
    return layout.entries(path, subset, stems)


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

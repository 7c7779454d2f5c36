"""Where the tracks of a data set lie: its layout is told by its folders.

A root holds ``{train,test}/<track>/{mixture,vocals,drums,bass,other}.{wav,flac,ogg}`` (the
layout of MUSDB18-HQ, which ``musdb.DB(is_wav=True)`` reads too) or
``{train,test}/<track>.stem.mp4`` (MUSDB18), or both. DSD100 has
``Mixtures/{Dev,Test}/<track>`` and ``Sources/{Dev,Test}/<track>``, of which Dev trains. A
folder of track folders without ``train`` and ``test`` is all for training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError

STEMS = ("vocals", "drums", "bass", "other")
MIXTURE = "mixture"
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
    """A track as it was found, not yet looked into.

    Attributes:
        name: Name of the track.
        subset: ``train`` or ``test``.
        path: Folder of its stems, or its .stem.mp4.
        mixture_folder: Where its mixture lies: the same folder, but for DSD100.
        is_stem_file: Whether it is a .stem.mp4.
    """

    name: str
    subset: str
    path: Path
    mixture_folder: Path
    is_stem_file: bool = False

    def find(self, stems: Sequence[str]) -> dict[str, Path]:
        """Find its files; of several formats WAV comes first, then FLAC.

        Args:
            stems: Names of the stems; one without a file is left out.

        Returns:
            Stem name -> file, and ``mixture`` last, if there is one.
        """
        if self.mixture_folder == self.path:
            return files_in(self.path, (*stems, MIXTURE))
        files = files_in(self.path, stems)
        if self.mixture_folder.is_dir():  # DSD100's may be missing
            files |= files_in(self.mixture_folder, [MIXTURE])
        return files


def files_in(folder: Path, stems: Sequence[str]) -> dict[str, Path]:
    """Find stems in a folder.

    Args:
        folder: The folder.
        stems: Names of the stems.

    Returns:
        Stem name -> file, in the order of the names; one without a file is left out.
    """
    present = set(os.listdir(folder))
    found = {
        stem: [stem + suffix for suffix in FORMATS if stem + suffix in present] for stem in stems
    }
    return {stem: folder / names[0] for stem, names in found.items() if names}


def subsets_of(root: str | Path, stems: Sequence[str] = STEMS) -> list[str]:
    """Tell which subsets a root has.

    Args:
        root: Folder of the data set.
        stems: Names of the stems.

    Returns:
        ``train``, ``test`` or both.

    Raises:
        DataError: The root has neither.
    """
    root = Path(root).expanduser()
    found = [subset for subset in SUBSETS if _folders(root, subset, stems)]
    if not found:
        raise _no_subset(root, SUBSETS[0])
    return found


def weighted_roots(root: str | Mapping[str, float] | None) -> dict[str, float]:
    """Roots of data sets, each with how often it is drawn from.

    Args:
        root: One root, or root -> weight, or None.

    Returns:
        Root -> weight, in the order given; empty without a root.

    Raises:
        DataError: A weight is not above 0, or there are no roots where some were promised.
    """
    if not isinstance(root, Mapping):
        return {root: 1.0} if root else {}
    if not root:
        raise DataError(
            "root is an empty mapping: give a folder, or folders with weights, as in "
            "{/data/musdb18hq: 1.0, /data/extra: 0.5}"
        )
    for folder, weight in root.items():
        if not 0 < weight < math.inf:
            raise DataError(
                f"root: the weight of {folder} is {weight}: give a number above 0, or leave the "
                "folder out"
            )
    return dict(root)


def find_entries(root: str | Path, subset: str, stems: Sequence[str] = STEMS) -> list[Entry]:
    """Find the tracks of a subset.

    Args:
        root: Folder of the data set.
        subset: ``train`` or ``test``.
        stems: Names of the stems, by which a folder without subsets is known.

    Returns:
        The tracks, sorted by name.

    Raises:
        DataError: There are none.
    """
    root = Path(root).expanduser()
    folders = _folders(root, subset, stems)
    if folders is None:
        raise _no_subset(root, subset)
    folder, mixtures = folders
    found = _tracks_in(folder)
    if not found:
        names = sorted(path.name for path in folder.iterdir())[:3]
        raise DataError(
            f"{folder}: no tracks in it (found: {', '.join(names) or 'nothing'}); expected "
            f"{_LAYOUT} in {root}; check the path, or copy the tracks there"
        )
    # A folder comes later, so that it stands in for a .stem.mp4 of the same name.
    found.sort(key=lambda each: each[1])
    paths = {path.name.removesuffix(_STEM_FILE_SUFFIX): (path, folder) for path, folder in found}
    return [
        Entry(
            name, subset, path, path if mixtures == folder else mixtures / path.name, not is_folder
        )
        for name, (path, is_folder) in sorted(paths.items())
    ]


def _folders(root: Path, subset: str, stems: Sequence[str]) -> tuple[Path, Path] | None:
    """Folders of a subset's stems and of its mixtures."""
    if (root / subset).is_dir():
        return root / subset, root / subset
    dsd100 = root / "Sources" / _DSD100[subset]
    if dsd100.is_dir():
        return dsd100, root / "Mixtures" / _DSD100[subset]
    if subset == "train" and _is_folder_of_tracks(root, stems):
        return root, root
    return None


def _is_folder_of_tracks(root: Path, stems: Sequence[str]) -> bool:
    # One subset alone, given as the root by mistake, would train on the test tracks.
    parts = (*SUBSETS, "Sources")
    if not root.is_dir() or root.resolve().name in (*SUBSETS, *_DSD100.values()):
        return False
    return not any((root / part).is_dir() for part in parts) and any(
        path.name.endswith(_STEM_FILE_SUFFIX)
        or any((path / (stem + suffix)).is_file() for stem in stems for suffix in FORMATS)
        for path, _ in _tracks_in(root)
    )


def _tracks_in(folder: Path) -> list[tuple[Path, bool]]:
    """What may be a track, and whether it is a folder; asked of the system in one go."""
    with os.scandir(folder) as found:
        return [
            (folder / each.name, each.is_dir())
            for each in found
            if not each.name.startswith(".")
            and (each.name.endswith(_STEM_FILE_SUFFIX) or each.is_dir())
        ]


def _no_subset(root: Path, subset: str) -> DataError:
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        return DataError(f"{root}: {fault}; expected {_LAYOUT} in it; check the path of the root")
    advice = "check the path of the root"
    if (resolved := root.resolve()).name in SUBSETS:
        advice = f"give the folder above it as the root: {resolved.parent}"
    elif below := sorted(path.parent for path in root.glob(f"*/{subset}")):
        advice = f"did you mean {below[0]}?"
    return DataError(f"{root}: has no folder {subset!r}; expected {_LAYOUT} in it; {advice}")

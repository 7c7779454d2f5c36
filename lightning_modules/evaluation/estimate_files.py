"""Find the files of estimates that any system wrote.

A folder of estimates, or its subfolder ``train`` or ``test``, has for each track one of:

- ``<track>/<target>.wav``, also ``<track>/<track>_<target>.wav``: most programs
- ``<track>.stem.mp4``, also in a folder of the track: stems in one file
- ``<track> - <target>.wav``, ``<track>_<target>.wav`` or ``<track>_(<target>).wav``
- ``<target>/<track>.wav``

in any audio format. The sum of all stems but one is called ``no_<stem>`` or ``minus_<stem>``;
``accompaniment``, ``instrumental`` and ``no_vocals`` are the same. Letter case and Unicode form of
names do not matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.files.find import SUFFIXES
from datamodules.files.names import (
    is_stem_file,
    is_system_name,
    key,
    match,
    suffix_of,
    without_suffix,
)
from datamodules.tracks.layouts import FORMATS, MIXTURE

VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"
_ACCOMPANIMENT_NAMES = ("instrumental", "instrumentals", "no_vocals")
# Preferred formats come first.
_RANKS = {suffix: rank for rank, suffix in enumerate((*FORMATS, *SUFFIXES)[::-1])}


@dataclass(frozen=True)
class EstimateFiles:
    """Files of one track's estimates.

    Attributes:
        place: Their folder, or the file of all of them, for messages.
        files: Target -> audio file.
        stem_file: The .stem.mp4 with the estimates, which is decoded to ``files``.
        ignored: Names of audio files that are no estimate of a target.
    """

    place: Path
    files: Mapping[str, Path]
    stem_file: Path | None = None
    ignored: tuple[str, ...] = ()

    @property
    def originals(self) -> dict[str, Path]:
        """Target, or ``stem.mp4`` -> the file that the system wrote."""
        return {"stem.mp4": self.stem_file} if self.stem_file else dict(self.files)


class TargetNames:
    """The targets that names of files stand for.

    Args:
        targets: Names of stems, and ``accompaniment`` if it may be scored.
        stems: Names of the data set's stems.
    """

    def __init__(self, targets: Sequence[str], stems: Sequence[str]) -> None:
        self._by_key = {key(name): name for name in targets}
        if ACCOMPANIMENT in targets and VOCALS in stems:
            for name in _ACCOMPANIMENT_NAMES:
                self._by_key.setdefault(name, ACCOMPANIMENT)
        complements = [f"no_{stem}" for stem in stems if stem != VOCALS and len(stems) > 1]
        for name in complements:
            self._by_key.setdefault(key(name), name)
        self.targets = tuple(dict.fromkeys([*targets, *complements]))

    def of(self, name: str) -> str | None:
        """Target of a name without suffix; None if it stands for none."""
        spelled = re.sub(r"[ -]", "_", key(name))
        return self._by_key.get(key(name)) or self._by_key.get(
            re.sub("^(minus|without)_", "no_", spelled)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All names that stand for a target, in one of their spellings."""
        return (*self.targets, *self._by_key)


def complement(target: str, stems: Sequence[str]) -> str | None:
    """The stem that is left out of a target, the sum of all others; None for a stem."""
    if target in stems:
        return None
    stem = VOCALS if target == ACCOMPANIMENT else target.removeprefix("no_")
    return stem if stem in stems else None


def files_in_folder(folder: Path, track: str, names: TargetNames) -> EstimateFiles:
    """Find the estimates of a track in a folder of its own."""
    present = sorted(path for path in _audio_files(folder))
    found: dict[str, list[Path]] = {}
    ignored = []
    for path in present:
        label = without_suffix(path)
        if target := names.of(label) or names.of(_without_track(label, key(track))):
            found.setdefault(target, []).append(path)
        elif not is_stem_file(path) and key(label) != MIXTURE:
            ignored.append(path.name)
    stem_files = [path for path in present if is_stem_file(path)]
    if not found and len(stem_files) == 1:
        return EstimateFiles(stem_files[0], {}, stem_files[0])
    return EstimateFiles(folder, _chosen(found, names), ignored=tuple(ignored))


def find_estimates(
    folder: Path, subset: str, tracks: Sequence[str], names: TargetNames
) -> dict[str, EstimateFiles]:
    """Find the estimates of tracks; those without any are left out.

    Args:
        folder: Contains the estimates, directly or in a subfolder named after the subset.
        subset: ``train`` or ``test``.
        tracks: Names of the tracks.
        names: Names of the targets.
    """
    below = match([subset], _folders(folder))
    found: dict[str, EstimateFiles] = {}
    for place in [folder / name for name in below.values()] + [folder]:
        folders = _folders(place)
        own = match(tracks, folders)
        for track, name in own.items():
            found.setdefault(track, files_in_folder(place / name, track, names))
        rest = [track for track in tracks if track not in found]
        for track, estimates in _without_folders(place, rest, folders, names):
            found.setdefault(track, estimates)
    return {track: found[track] for track in tracks if track in found}


def _without_folders(
    place: Path, tracks: Sequence[str], folders: Sequence[str], names: TargetNames
) -> Iterator[tuple[str, EstimateFiles]]:
    """Estimates of tracks that have no folder of their own."""
    files = sorted(_audio_files(place)) if tracks else []
    stem_files = {without_suffix(path): path for path in files if is_stem_file(path)}
    for track, name in match(tracks, stem_files).items():
        yield track, EstimateFiles(stem_files[name], {}, stem_files[name])
    by_track: dict[str, dict[str, list[Path]]] = {track: {} for track in tracks}
    keys = {key(track): track for track in tracks}
    for path in files:
        for folded, track in keys.items():
            if target := names.of(_without_track(without_suffix(path), folded)):
                by_track[track].setdefault(target, []).append(path)
    for name in folders:
        if tracks and (target := names.of(name)):
            for path in _audio_files(place / name):
                if named := keys.get(key(without_suffix(path))):
                    by_track[named].setdefault(target, []).append(path)
    for track, found in by_track.items():
        if found:
            yield track, EstimateFiles(place, _chosen(found, names))


def _without_track(label: str, track: str) -> str:
    """What follows the folded name of a track in a name; empty if it does not begin with it."""
    for folded in (key(label), re.sub(r"^\d+_", "", key(label))):  # UVR numbers its files
        if folded.startswith(track):
            rest = folded[len(track) :]
            if parts := re.fullmatch(r"[\s._-]*[(\[](.+)[)\]]|[\s._-]+(.+)", rest):
                return parts[1] or parts[2]
    return ""


def _chosen(found: Mapping[str, Sequence[Path]], names: TargetNames) -> dict[str, Path]:
    """One file per target: the one named exactly after it, then the preferred format."""

    def best(target: str) -> Path:
        def rank(path: Path) -> tuple[bool, int, str]:
            exact = key(without_suffix(path)) == key(target)
            return exact, _RANKS[suffix_of(path)], path.name

        return max(found[target], key=rank)

    return {target: best(target) for target in names.targets if target in found}


def _audio_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as content:
        return [
            folder / item.name
            for item in content
            if suffix_of(item.name) in SUFFIXES and not is_system_name(item.name) and item.is_file()
        ]


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as content:
        return [item.name for item in content if item.is_dir() and not is_system_name(item.name)]


def with_streams(
    estimates: EstimateFiles, streams: Mapping[str, Path], names: TargetNames
) -> EstimateFiles:
    """Add the decoded streams of a .stem.mp4: name -> file."""
    files = {target: path for name, path in streams.items() if (target := names.of(name))}
    return replace(estimates, files={name: files[name] for name in names.targets if name in files})

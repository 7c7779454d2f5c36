"""Folders of tracks with any number of files: ``trackfolder_var``, as Open-Unmix calls it.

Files that are not named as a stem belong to the stem ``other``, whose audio is their sum. Must be
named, ``trackfolder_var:/data/songs``, since otherwise such files are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.files.names import key, suffix_of, without_suffix
from datamodules.tracks.entries import FORMATS, MIXTURE, Entry
from datamodules.tracks.folders import TrackFolders
from datamodules.tracks.instruments import Instrument, entry_of_instruments, with_stems


class VariableFolders(TrackFolders):
    """Folders of tracks, each with a file per instrument and any instruments."""

    name = "trackfolder_var"

    def entries(self, root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
        """Find the tracks of a subset and assign their files to stems."""
        entries = [_by_file(entry, stems) for entry in super().entries(root, subset, stems)]
        return with_stems(entries, stems, root)


def _by_file(entry: Entry, stems: Sequence[str]) -> Entry:
    if entry.is_stem_file or entry.parts is not None:
        return entry
    names = sorted(name for name in entry.content or () if suffix_of(name) in FORMATS)
    by_key = {key(stem): stem for stem in (*stems, MIXTURE)}
    files = {name: key(without_suffix(name)) for name in names}
    mixture = next((entry.path / name for name in files if files[name] == MIXTURE), None)
    instruments = [
        Instrument(entry.path / name, (by_key.get(file, file),))
        for name, file in files.items()
        if file != MIXTURE
    ]
    assigned = entry_of_instruments(entry.name, entry.subset, entry.path, instruments, stems)
    if mixture and not assigned.unassigned:
        assigned = replace(assigned, parts={**(assigned.parts or {}), MIXTURE: (mixture,)})
    return assigned

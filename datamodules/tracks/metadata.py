"""Data sets whose tracks have a metadata file that names the instrument of each audio file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.cache.folder import file_facts
from datamodules.errors import DataError
from datamodules.files.names import is_system_name
from datamodules.parallel import raise_faults
from datamodules.tracks.entries import SUBSET_FOLDERS, SUBSETS, Entry, folders_named
from datamodules.tracks.instruments import Instrument, entry_of_instruments, with_stems

# Folders that are looked at to recognise a layout.
_SAMPLED = 20


class Content(NamedTuple):
    """What the metadata say about a track.

    Attributes:
        instruments: Its files, without the mixture.
        mixture: The file of its mixture, if that is the sum of the files.
        has_bleed: Whether files are said to contain other instruments than their own.
    """

    instruments: list[Instrument]
    mixture: Path | None = None
    has_bleed: bool = False


class MetadataLayout(ABC):
    """Finds tracks by their metadata files, and assigns their instruments to stems.

    Tracks are in folders ``train``, ``valid`` and ``test`` of the root; without these folders, all
    tracks in the root, or in its folders, are training tracks.
    """

    name: str

    @abstractmethod
    def is_track(self, folder: Path) -> bool:
        """Whether a folder is that of a track."""

    @abstractmethod
    def metadata_file(self, track: Path, root: Path) -> Path:
        """The metadata file of a track; raises a ``DataError`` if it cannot be found."""

    @abstractmethod
    def parse(self, path: Path) -> Any:
        """The needed part of a metadata file as a JSON value; raises for a faulty file.

        Any of ``LookupError``, ``TypeError``, ``ValueError`` and ``AttributeError`` says that the
        file has another structure.
        """

    @abstractmethod
    def content(self, track: Path, metadata: Any) -> Content:
        """The files of a track, by the result of `parse`."""

    def recognises(self, root: Path) -> bool:
        """Whether one of the first folders in a root or a subset is a track of this layout."""
        places = [root]
        for names in SUBSET_FOLDERS.values():
            places += folders_named(root, names)[:1]
        for place in places:
            for folder in islice(_folders(place), _SAMPLED):
                below = islice(_folders(folder), _SAMPLED) if place == root else ()
                if self.is_track(folder) or any(map(self.is_track, below)):
                    return True
        return False

    def subsets(self, root: Path, stems: Sequence[str]) -> list[str]:
        """Subsets that have tracks."""
        found = self.find_tracks(root)
        return [subset for subset in SUBSETS if found.get(subset)]

    def entries(self, root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
        """Find the tracks of a subset and assign their instruments to stems."""
        found = self.find_tracks(root)
        folders = found.get(subset)
        if not folders:
            raise DataError(
                f"{root}: has no {subset} tracks; found: "
                f"{', '.join(name for name in SUBSETS if found.get(name)) or 'no tracks at all'}; "
                f"move tracks to a folder {subset!r} in it, or use another subset"
            )
        files = {folder: self.metadata_file(folder, root) for folder in folders}
        known, faults = file_facts().look_up(
            f"metadata {self.name}", self._read, list(files.values()), "reading metadata", True
        )
        raise_faults([str(fault) for fault in faults.values()])
        entries = [
            self._entry(folder, subset, known[file].value, stems) for folder, file in files.items()
        ]
        return with_stems(sorted(entries, key=lambda entry: entry.name), stems, root)

    def find_tracks(self, root: Path) -> dict[str, list[Path]]:
        """Folders of the tracks of each subset."""
        found = {}
        for subset, names in SUBSET_FOLDERS.items():
            for folder in folders_named(root, names)[:1]:
                if tracks := self.tracks_in(folder):
                    found[subset] = tracks
        return found or {"train": self.tracks_in(root)}

    def tracks_in(self, folder: Path) -> list[Path]:
        """Tracks in a folder, or in its folders if there are none."""
        folders = sorted(_folders(folder))
        tracks = [path for path in folders if self.is_track(path)]
        if tracks:
            return tracks
        return [path for each in folders for path in sorted(_folders(each)) if self.is_track(path)]

    def _entry(self, folder: Path, subset: str, metadata: Any, stems: Sequence[str]) -> Entry:
        instruments, mixture, has_bleed = self.content(folder, metadata)
        return entry_of_instruments(
            folder.name, subset, folder, instruments, stems, mixture, has_bleed
        )

    def _read(self, path: Path) -> Any:
        try:
            return self.parse(path)
        except DataError:
            raise
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: is not the metadata of a track of {self.name} ({type(error).__name__}: "
                f"{str(error)[:100]}); copy or download it again"
            ) from error


def load_yaml(path: Path) -> Any:
    """Read a YAML file with the fastest loader; raises ``ValueError`` for faulty YAML."""
    import yaml  # here, because it takes 20 ms

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text("utf-8"), loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def _folders(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as content:
            for item in content:
                if not is_system_name(item.name) and item.is_dir():
                    yield folder / item.name
    except OSError:
        return

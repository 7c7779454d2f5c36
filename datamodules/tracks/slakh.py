"""Slakh2100 (Manilow et al. 2019): one FLAC per MIDI instrument of a track.

``{train,validation,test}/Track00001/{metadata.yaml,mix.flac,stems/S00.flac}``, as slakh-utils
describes; tracks in ``omitted``, where its script moves duplicates, are not read. BabySlakh has the
tracks in the root. ``slakh_redux`` and ``slakh_split2`` apply the lists ``redux.json`` and
``splits_v2.json`` of slakh-utils, copied to the root, to folders in their original places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.tracks.entries import SUBSET_FOLDERS, files_in
from datamodules.tracks.instruments import Instrument, slug
from datamodules.tracks.metadata import Content, MetadataLayout, load_yaml

_DRUMS = "drums"
_OTHER_KEYS, _WIND, _PLUCKED = "other_keys", "wind", "other_plucked"
# Class of a General MIDI program -> stem of MoisesDB's taxonomy.
_TAXONOMY = {
    "chromatic_percussion": "percussion",
    "percussive": "percussion",
    "organ": _OTHER_KEYS,
    "synth_lead": _OTHER_KEYS,
    "synth_pad": _OTHER_KEYS,
    "strings": "bowed_strings",
    "brass": _WIND,
    "reed": _WIND,
    "pipe": _WIND,
}
# The same for programs that are unlike the others of their class, numbered from 0.
_PROGRAMS = {
    46: _PLUCKED,  # orchestral harp
    47: "percussion",  # timpani
    **dict.fromkeys(range(104, 108), _PLUCKED),  # sitar, banjo, shamisen, koto
    108: "percussion",  # kalimba
    109: _WIND,  # bagpipe
    110: "bowed_strings",  # fiddle
    111: _WIND,  # shanai
}
# Last track of each subset in the original split, by slakh-utils' `reset`.
_LAST_TRAIN, _LAST_VALID = "Track01500", "Track01875"
_SUBSETS = {name: subset for subset, names in SUBSET_FOLDERS.items() for name in names}


class Slakh(MetadataLayout):
    """Slakh2100 with the subsets that its folders say."""

    name = "slakh"

    def is_track(self, folder: Path) -> bool:
        """Whether a folder has a ``metadata.yaml`` beside ``stems``."""
        return (folder / "metadata.yaml").is_file() and (folder / "stems").is_dir()

    def metadata_file(self, track: Path, root: Path) -> Path:
        """The ``metadata.yaml`` of a track."""
        return track / "metadata.yaml"

    def parse(self, path: Path) -> Any:
        """Identifier and names of each rendered instrument."""
        return [
            [stem, _names(about)]
            for stem, about in load_yaml(path)["stems"].items()
            if about.get("audio_rendered", True)
        ]

    def content(self, track: Path, metadata: Any) -> Content:
        """FLAC files, or WAV files after their conversion."""
        folder = track / "stems"
        files = files_in(folder, [stem for stem, _ in metadata])
        instruments = [
            Instrument(files.get(stem, folder / f"{stem}.flac"), tuple(names))
            for stem, names in metadata
        ]
        return Content(instruments, files_in(track, ["mix"]).get("mix"))


class SplitSlakh(Slakh):
    """Slakh2100 with the subsets that a list of slakh-utils says.

    Args:
        name: Name of the layout.
        file: Name of the list in the root.
    """

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file

    def recognises(self, root: Path) -> bool:
        """Never; the layout must be named."""
        return False

    def find_tracks(self, root: Path) -> dict[str, list[Path]]:
        """Folders of the tracks of each subset, wherever they are."""
        path = root / self.file
        try:
            actions = json.loads(path.read_bytes())
            subsets = {track: _subset(track, action) for track, action in actions.items()}
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: does not exist; copy it there from the folder splits of slakh-utils, or "
                "use the layout slakh for the subsets that the folders say"
            ) from error
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path}: is not a list of splits of slakh-utils ({error}); copy it again"
            ) from error
        found: dict[str, list[Path]] = {}
        for folder in sorted(self.tracks_in(root), key=lambda track: track.name):
            if subset := subsets.get(folder.name):
                found.setdefault(subset, []).append(folder)
        return found


def _subset(track: str, action: dict[str, str | None]) -> str | None:
    """Subset of a track by an entry of a list; None if it is omitted."""
    if action["action"] == "omit":
        return None
    if destination := action.get("destination_split"):
        return _SUBSETS[destination]
    return "train" if track <= _LAST_TRAIN else "valid" if track <= _LAST_VALID else "test"


def _names(about: dict[str, Any]) -> list[str]:
    """Names of an instrument: MIDI program, class, stem of MoisesDB's taxonomy."""
    if about["is_drum"]:
        return [_DRUMS]
    kind = slug(about["inst_class"])
    program = _PROGRAMS.get(about.get("program_num", -1))
    names = [slug(about["midi_program_name"]), kind, program or _TAXONOMY.get(kind, kind)]
    return list(dict.fromkeys(names))

"""MoisesDB (Pereira et al. 2023): stems that consist of named tracks, described by ``data.json``.

``<song>/data.json`` and ``<song>/<stem>/<id>.wav``, in the root or in a folder such as
``moisesdb_v0.1``. Names of an instrument are its own, such as ``kick_drum``, then its stem in the
data set's taxonomy of eleven: vocals, bass, drums, guitar, other_plucked, percussion, piano,
other_keys, bowed_strings, wind, other. Everything that is none of the wanted stems belongs to
``other``, as in the four and six stems of the package ``moisesdb``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.tracks.instruments import Instrument, slug
from datamodules.tracks.metadata import Content, MetadataLayout

# Short names that other data sets use for parts of a drum kit.
_SHORT = {"kick_drum": "kick", "snare_drum": "snare"}


class MoisesDB(MetadataLayout):
    """MoisesDB, all of whose songs are training tracks unless they are sorted into folders."""

    name = "moisesdb"

    def is_track(self, folder: Path) -> bool:
        """Whether a folder has a ``data.json``."""
        return (folder / "data.json").is_file()

    def metadata_file(self, track: Path, root: Path) -> Path:
        """The ``data.json`` of a song."""
        return track / "data.json"

    def parse(self, path: Path) -> Any:
        """File, names and bleed of each track in the stems."""
        return [
            [
                f"{stem['stemName']}/{track['id']}.{track['extension']}",
                _names(track["trackType"], stem["stemName"]),
                bool(track.get("has_bleed", False)),
            ]
            for stem in json.loads(path.read_bytes())["stems"]
            for track in stem["tracks"]
        ]

    def content(self, track: Path, metadata: Any) -> Content:
        """The files in the folders of stems; the data set has no mixtures."""
        instruments = [Instrument(track / file, tuple(names)) for file, names, _ in metadata]
        return Content(instruments, None, any(bleed for _, _, bleed in metadata))


def _names(kind: str, stem: str) -> list[str]:
    own = slug(kind)
    return list(dict.fromkeys([own, _SHORT.get(own, own), slug(stem)]))

"""MedleyDB 1 and 2 (Bittner et al. 2014, 2016): stems and raw files, named by YAML metadata.

Each track has the folders ``<track>_STEMS`` and ``<track>_RAW`` and ``<track>_METADATA.yaml``, and
is in the root or in a folder such as ``Audio`` or ``V2``. The metadata may also be in a folder
``Metadata`` in or beside the root, as in the repository ``medleydb``. The layout ``medleydb`` reads
the stems, which are processed; ``medleydb_raw`` the raw files, one per microphone, by which a drum
kit can be separated. Mixtures are not read, since stems have other gains in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.tracks.instruments import Instrument, slug
from datamodules.tracks.metadata import Content, MetadataLayout, load_yaml

# Stem of MoisesDB's taxonomy -> instruments of MedleyDB's, as slugs; the rest is `other`.
_STEMS = {
    "vocals": "male_singer female_singer male_speaker female_speaker male_rapper female_rapper "
    "beatboxing vocalists choir male_screamer female_screamer",
    "bass": "electric_bass double_bass",
    "drums": "drum_set drum_machine kick_drum snare_drum bass_drum toms high_hat cymbal",
    "guitar": "acoustic_guitar clean_electric_guitar distorted_electric_guitar lap_steel_guitar "
    "slide_guitar",
    "other_plucked": "banjo guzheng harp liuqin mandolin oud ukulele zhongruan sitar",
    "piano": "piano tack_piano electric_piano",
    "other_keys": "electronic_organ pipe_organ synthesizer harpsichord accordion bandoneon "
    "concertina harmonium melodica",
    "bowed_strings": "erhu violin viola cello violin_section viola_section cello_section "
    "string_section dilruba",
    "wind": "dizi flute flute_section piccolo bamboo_flute panpipes recorder alto_saxophone "
    "baritone_saxophone tenor_saxophone soprano_saxophone bass_clarinet clarinet clarinet_section "
    "oboe english_horn bassoon bagpipe trumpet cornet trombone french_horn euphonium tuba "
    "brass_section french_horn_section trombone_section horn_section trumpet_section harmonica "
    "whistle",
    "percussion": "triangle sleigh_bells cowbell cabasa gong guiro gu chimes castanet claps rattle "
    "shaker maracas xylophone vibraphone marimba glockenspiel snaps timpani bongo conga tambourine "
    "darbuka doumbek tabla auxiliary_percussion dulcimer yangqin",
}
_STEM_OF = {name: stem for stem, names in _STEMS.items() for name in names.split()}
_SHORT = {"kick_drum": "kick", "snare_drum": "snare", "high_hat": "hihat", "cymbal": "cymbals"}
# Places of the metadata in or beside the root, apart from the folder of the track.
_METADATA = ("Metadata", "../Metadata", "medleydb/data/Metadata", "../medleydb/data/Metadata")


class MedleyDB(MetadataLayout):
    """MedleyDB's stems, all training tracks unless they are sorted into folders."""

    name = "medleydb"
    raw = False

    def is_track(self, folder: Path) -> bool:
        """Whether a folder has a folder of stems, or of raw files."""
        return any((folder / f"{folder.name}_{kind}").is_dir() for kind in ("STEMS", "RAW"))

    def metadata_file(self, track: Path, root: Path) -> Path:
        """The metadata of a track, in its own folder or in one of all tracks."""
        name = f"{track.name}_METADATA.yaml"
        for folder in (track, *(root / place for place in _METADATA)):
            if (folder / name).is_file():
                return folder / name
        raise DataError(
            f"{track}: has no {name}, and neither has a folder Metadata in or beside {root}; copy "
            "the folder medleydb/data/Metadata of the repository medleydb there"
        )

    def parse(self, path: Path) -> Any:
        """Bleed, and for each stem its file and names, and those of its raw files."""
        metadata = load_yaml(path)
        folders = metadata["stem_dir"], metadata["raw_dir"]
        return [
            metadata.get("has_bleed") in ("yes", True),
            [_file(folders[0], stem) for stem in metadata["stems"].values()],
            [
                _file(folders[1], raw, stem)
                for stem in metadata["stems"].values()
                for raw in (stem.get("raw") or {}).values()
            ],
        ]

    def content(self, track: Path, metadata: Any) -> Content:
        """The stems, or the raw files."""
        has_bleed, stems, raw = metadata
        files = raw if self.raw else stems
        return Content(
            [Instrument(track / file, tuple(names)) for file, names in files], None, has_bleed
        )


class RawMedleyDB(MedleyDB):
    """MedleyDB's raw files."""

    name = "medleydb_raw"
    raw = True

    def recognises(self, root: Path) -> bool:
        """Never; the layout must be named."""
        return False


def _file(folder: str, about: dict[str, Any], stem: dict[str, Any] | None = None) -> list[Any]:
    """Path of a file and the names of its instrument; those of a raw file's stem follow its own."""
    own = _names(about["instrument"])
    names = [*own, *(_names(stem["instrument"]) if stem else [])]
    return [f"{folder}/{about['filename']}", list(dict.fromkeys(names))]


def _names(instrument: str | list[str]) -> list[str]:
    if isinstance(instrument, list):  # several in one file: the first one counts
        instrument = instrument[0]
    own = slug(instrument) or "unlabeled"
    return [own, *(table[own] for table in (_SHORT, _STEM_OF) if own in table)]

"""Tiny data sets in the layouts of other projects; each file is a constant of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
SAMPLES = 2000


def write_constant(
    path: Path, value: int, samples: int = SAMPLES, channels: int = 2, rate: int = RATE
) -> Path:
    """Write a file whose samples all have the same 16-bit value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((samples, channels), value, np.int16), rate)
    return path


def value_of(waveform: np.ndarray) -> float:
    """The 16-bit value that all samples of a waveform have."""
    values = np.unique(waveform) * 2**15
    assert len(values) == 1, values
    return float(values[0])


def write_source_folders(root: Path) -> Path:
    """Folders of files per stem, as type 2 of MSST: three vocals, two drums; a folder valid."""
    for number in range(3):
        write_constant(root / f"train/vocals/v{number}.wav", 10 + number)
    for number in range(2):
        write_constant(root / f"train/drums/d{number}.flac", 20 + number, 3000)
    for number in range(2):
        write_constant(root / f"valid/vocals/v{number}.wav", 30 + number)
    write_constant(root / "valid/drums/d0.wav", 40)
    return root


def write_list(folder: Path, suffix: str) -> Path:
    """A list of two training tracks and one for validation; the drums of A have two files."""
    for name, value in (("A", 100), ("B", 200), ("C", 300)):
        for number, file in enumerate(("vocals", "kick", "snare", "extra")):
            write_constant(folder / name / f"{file}.wav", value + 2**number)
    tracks = [
        {
            "track": name,
            "subset": subset,
            "stems": {
                "vocals": f"{name}/vocals.wav",
                "drums": [f"{name}/kick.wav", f"{name}/snare.wav"],
                "guitar": f"{name}/extra.wav",
            },
        }
        for name, subset in (("A", "train"), ("B", "train"), ("C", "valid"))
    ]
    path = folder / f"tracks.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(tracks))
        return path
    rows = ["track,split,instrum,path"]
    for name, subset in (("A", "train"), ("B", "train"), ("C", "validation")):
        for stem, file in (
            ("vocals", "vocals"),
            ("drums", "kick"),
            ("drums", "snare"),
            ("guitar", "extra"),
        ):
            rows.append(f"{name},{subset},{stem},{name}/{file}.wav")
    path.write_text("\n".join(rows) + "\n")
    return path


def write_variable_folders(root: Path) -> Path:
    """Tracks with different instruments, as for Open-Unmix' trackfolder_var."""
    for name, files in (
        ("A", {"vocals": 1, "drums": 2, "accordion": 4}),
        ("B", {"vocals": 8, "marimba": 16}),
        ("C", {"accordion": 32, "bass": 64}),
    ):
        for file, value in files.items():
            write_constant(root / "train" / name / f"{file}.wav", value)
    return root


def write_slakh(root: Path) -> Path:
    """Two training tracks, one each for validation and test, one omitted; redux.json omits one."""
    programs = [
        ("S00", "Acoustic Grand Piano", "Piano", 0, False),
        ("S01", "Drums", "Drums", 128, True),
        ("S02", "Electric Bass (finger)", "Bass", 33, False),
        ("S03", "Distortion Guitar", "Guitar", 30, False),
        ("S04", "String Ensemble 1", "Strings (continued)", 48, False),
        ("S05", "Clean Guitar", "Guitar", 27, False),
    ]
    for number, (subset, track) in enumerate(
        (
            ("train", "Track00001"),
            ("train", "Track00002"),
            ("validation", "Track01501"),
            ("test", "Track01876"),
            ("omitted", "Track00003"),
        )
    ):
        folder = root / subset / track
        lines = ["UUID: 1a81", "audio_dir: stems", "stems:"]
        total = 0
        for position, (stem, program, kind, value, is_drum) in enumerate(programs):
            rendered = stem != "S05"
            lines += [
                f"  {stem}:",
                f"    audio_rendered: {str(rendered).lower()}",
                f"    inst_class: {kind}",
                f"    is_drum: {str(is_drum).lower()}",
                f"    midi_program_name: {program}",
                f"    program_num: {value}",
            ]
            if rendered:
                total += 2**position + 100 * number
                write_constant(
                    folder / f"stems/{stem}.flac", 2**position + 100 * number, SAMPLES, 1
                )
        write_constant(folder / "mix.flac", total, channels=1)
        (folder / "metadata.yaml").write_text("\n".join(lines) + "\n")
    return root


def write_moisesdb(root: Path) -> Path:
    """Three songs: with several tracks per stem, of different lengths, and without some stems."""
    songs = {
        "a1": [
            ("vocals", "lead female singer", 1),
            ("vocals", "other (vocoder, beatboxing etc)", 2),
            ("drums", "kick drum", 4),
            ("drums", "snare drum", 8),
            ("bass", "bass guitar", 16),
            ("guitar", "acoustic guitar", 32),
            ("piano", "grand piano", 64),
            ("other_keys", "synth pad", 128),
            ("percussion", "a-tonal percussion (claps, shakers, congas, cowbell etc)", 256),
        ],
        "b2": [("vocals", "lead male singer", 3), ("guitar", "clean electric guitar", 5)],
        "c3": [("drums", "drum machine", 7), ("wind", "other wind", 9)],
    }
    for name, instruments in songs.items():
        stems: dict[str, list[dict[str, object]]] = {}
        for number, (stem, kind, value) in enumerate(instruments):
            identifier = f"{name}-{number}"
            about = {"id": identifier, "trackType": kind, "extension": "wav", "has_bleed": False}
            stems.setdefault(stem, []).append(about)
            path = root / "moisesdb_v0.1" / name / stem / f"{identifier}.wav"
            write_constant(path, value, SAMPLES - (kind == "snare drum"))
        content = {
            "song": name,
            "artist": "artist",
            "stems": [
                {"id": "x", "stemName": stem, "tracks": each} for stem, each in stems.items()
            ],
        }
        (root / "moisesdb_v0.1" / name / "data.json").write_text(json.dumps(content))
    return root


def write_medleydb(root: Path, metadata_beside: bool = False) -> Path:
    """Two tracks in Audio, with stems in stereo and mono raw files."""
    tracks: dict[str, list[tuple[str | list[str], int, list[str]]]] = {
        "Ann_One": [
            ("drum set", 1, ["kick drum", "snare drum", "drum set"]),
            ("male singer", 2, ["male singer"]),
        ],
        "Bob_Two": [
            ("electric bass", 4, ["electric bass"]),
            (["female singer", "vocalists"], 8, ["female singer", "vocalists"]),
            ("Main System", 16, ["Main System"]),
        ],
    }
    for name, stems in tracks.items():
        folder = root / "Audio" / name
        lines = [f"has_bleed: '{'yes' if name == 'Bob_Two' else 'no'}'", f"stem_dir: {name}_STEMS"]
        lines += [f"raw_dir: {name}_RAW", f"mix_filename: {name}_MIX.wav", "stems:"]
        for number, (instrument, value, raw) in enumerate(stems, 1):
            file = f"{name}_STEM_{number:02d}.wav"
            write_constant(folder / f"{name}_STEMS" / file, value)
            lines += [f"  S{number:02d}:", "    component: ''", f"    filename: {file}"]
            lines += [f"    instrument: {json.dumps(instrument)}", "    raw:"]
            for part, kind in enumerate(raw, 1):
                file = f"{name}_RAW_{number:02d}_{part:02d}.wav"
                write_constant(folder / f"{name}_RAW" / file, 100 * value + part, channels=1)
                lines += [f"      R{part:02d}:", f"        filename: {file}"]
                lines += [f"        instrument: {kind}"]
        write_constant(folder / f"{name}_MIX.wav", 99)
        place = root / "Metadata" if metadata_beside else folder
        place.mkdir(exist_ok=True)
        (place / f"{name}_METADATA.yaml").write_text("\n".join(lines) + "\n")
    return root

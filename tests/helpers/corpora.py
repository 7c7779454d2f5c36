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

"""Data that the loaders read: generated noise, or the user's MUSDB18-HQ."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from datamodules.command_line import program
from datamodules.errors import DataError
from datamodules.progress import Bar
from datamodules.tracks.layouts import MIXTURE, STEMS, find_entries

SAMPLE_RATE = 44100
_BYTES_PER_SECOND = 4 * SAMPLE_RATE  # 16-bit stereo
_BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Task:
    """Task of every loader: crops of all stems, each stem from another random track.

    Attributes:
        root: Data set in the layout of MUSDB18-HQ, in a folder with the name that torchaudio
            expects.
        tracks: Its training tracks, stem name -> file.
        segment_samples: Length of a crop.
        batch_size: Examples in a batch.
    """

    root: Path
    tracks: Sequence[Mapping[str, Path]]
    segment_samples: int
    batch_size: int

    @property
    def segment_seconds(self) -> float:
        """Length of a crop, seconds."""
        return self.segment_samples / SAMPLE_RATE


def make_corpus(folder: Path, tracks: int, seconds: float) -> Path:
    """Write tracks of noise into an empty folder; reading PCM takes the same time for any content.

    Args:
        folder: The folder.
        tracks: Number of tracks.
        seconds: Length of each, seconds.

    Returns:
        Root of the data set, in the layout of MUSDB18-HQ.

    Raises:
        DataError: The disk has too little free space.
    """
    size = tracks * (len(STEMS) + 1) * seconds * _BYTES_PER_SECOND
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: {tracks} tracks of {seconds:g} s take {size / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free; set TMPDIR to a larger disk, or give fewer --tracks"
        )
    _report(f"Writing {tracks} tracks of {seconds:g} s, {size / 1e9:.2f} GB, to {folder}")
    root = folder / "musdb18hq"
    random = np.random.default_rng(0)
    samples = round(seconds * SAMPLE_RATE)
    for number in Bar(range(tracks), "writing", unit="track", leave=False):
        track = root / "train" / f"Noise - {number:03}"
        track.mkdir(parents=True)
        # An eighth of full scale, so that the sum of four stems does not clip.
        stems = random.integers(-(2**12), 2**12, (len(STEMS), samples, 2), dtype=np.int16)
        for name, audio in zip((*STEMS, MIXTURE), (*stems, stems.sum(0, np.int16)), strict=True):
            soundfile.write(track / f"{name}.wav", audio, SAMPLE_RATE, subtype="PCM_16")
    return root


def link_corpus(folder: Path, root: Path, tracks: int) -> Path:
    """Link the first training tracks of a data set, by name, from an empty folder.

    Args:
        folder: The folder.
        root: Data set in the layout of MUSDB18-HQ.
        tracks: Largest number of tracks.

    Returns:
        Root of the links, in the layout of MUSDB18-HQ.

    Raises:
        DataError: The data set has another layout or format.
    """
    links = folder / "musdb18hq" / "train"
    links.mkdir(parents=True)
    for entry in find_entries(root, "train")[:tracks]:
        for name in (*STEMS, MIXTURE):
            if not (entry.path / f"{name}.wav").is_file():
                raise DataError(
                    f"{entry.path}: has no {name}.wav; all loaders need the layout of MUSDB18-HQ, "
                    f"into which {program('datamodules.convert')} converts other data sets"
                )
        (links / entry.name).symlink_to(entry.path.resolve(), target_is_directory=True)
    return links.parent


def read_once(root: Path) -> list[dict[str, Path]]:
    """Read all training tracks into the page cache; returns the files of the stems of each."""
    folders = sorted((root / "train").iterdir())
    files = [folder / f"{name}.wav" for folder in folders for name in (*STEMS, MIXTURE)]
    size = sum(file.stat().st_size for file in files)
    _report(f"Reading {len(folders)} tracks once, {size / 1e9:.2f} GB, into the page cache")
    with Bar(total=size, unit="B", unit_scale=True, leave=False) as bar:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while block := file.read(_BLOCK_BYTES):
                    bar.update(len(block))
    return [{stem: folder / f"{stem}.wav" for stem in STEMS} for folder in folders]


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
